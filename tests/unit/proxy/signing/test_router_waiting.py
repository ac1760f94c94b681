"""Jobs that no node can take: who waits, for how long, and who is refused at once, as transcripts."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import NodeAddress
from proxy.signing.commands import Attempt, RoutedJob
from proxy.signing.dispatch import Dispatch
from proxy.signing.facts import NodeFacts
from proxy.signing.router import Router
from proxy.signing.selection import NodeLoad
from tests.support.play import OTHER_SKI, SKI, RouterPlay, policy

R = SigningReason
ONE_AT_A_TIME: dict[str, Any] = {"max_in_flight_per_node": 1}


def test_when_all_links_are_down_for_a_moment_the_job_waits_for_one() -> None:
    play = RouterPlay(["a", "b"])
    play.lose("a", at=0.0)
    play.lose("b", at=0.0)
    play.job(at=0.1).waits()
    play.up("b", at=0.4).sends_to("b")


def test_with_all_nodes_down_the_job_fails_as_soon_as_it_has_waited_for_one_long_enough() -> None:
    play = RouterPlay(["a"], routing={"no_node_wait_s": 0.7})
    play.lose("a", at=0.0)
    play.job(at=0.1).waits()
    play.time(at=0.8).fails(R.NO_NODE).nothing()


def test_with_all_nodes_down_the_job_fails_at_its_deadline_where_that_is_earlier() -> None:
    play = RouterPlay(["a"], routing={"no_node_wait_s": 0.7})
    play.lose("a", at=0.0)
    play.job(at=0.1, deadline=0.3).waits()
    play.time(at=0.3).fails(R.NO_NODE).nothing()


def test_jobs_in_line_for_a_node_that_goes_down_wait_no_longer_than_new_ones() -> None:
    play = RouterPlay(["a"], routing={"no_node_wait_s": 0.7}, **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.lose("a", at=0.1).waits()
    play.time(at=0.15).waits()  # the job that had failed has rested
    play.time(at=0.8).fails(R.NO_NODE, job=1).waits()
    play.time(at=0.85).fails(R.NO_NODE, job=0).nothing()


def test_the_wait_for_a_node_begins_anew_when_one_was_there_meanwhile() -> None:
    play = RouterPlay(["a"], routing={"no_node_wait_s": 0.7})
    play.lose("a", at=0.0)
    play.job(at=0.0).waits()
    play.up("a", at=0.6).sends_to("a")
    play.lose("a", at=0.65).waits()
    play.time(at=0.7).waits()
    play.time(at=1.4).fails(R.NO_NODE)


def test_with_all_nodes_full_the_job_fails_at_its_deadline() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0, deadline=0.5).waits()
    play.time(at=0.5).fails(R.DEADLINE).nothing()


def test_a_full_node_gives_room_to_the_job_that_is_due_first() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0, deadline=4.0).waits()
    play.job(at=0.1, deadline=3.0).waits()
    play.reply("a", at=0.2).finishes(by="a").sends_to("a").nothing()
    play.reply("a", at=0.3).finishes(by="a").sends_to("a").nothing()
    assert [job.is_over for job in play.jobs] == [True, False, True]


def test_a_key_whose_nodes_are_full_does_not_hold_up_another_key() -> None:
    play = RouterPlay(["a", "b"], **ONE_AT_A_TIME)
    play.keys("b", [OTHER_SKI], at=0.0)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0, deadline=0.9).waits()
    play.job(at=0.0, ski=OTHER_SKI).sends_to("b")
    play.job(at=0.0, ski=OTHER_SKI).waits()
    play.reply("b", at=0.1).finishes(by="b").sends_to("b").nothing()


def test_one_key_gets_its_share_of_a_node_while_others_are_in_use() -> None:
    play = RouterPlay(["a"], routing={"window_initial": 8, "key_share": 0.75})
    play.keys("a", [SKI, OTHER_SKI], at=0.0)
    play.job(at=0.0, ski=OTHER_SKI).sends_to("a")
    play.reply("a", at=0.0).finishes(by="a")
    for _ in range(6):
        play.job(at=0.1).sends_to("a")
    play.job(at=0.1).waits()
    play.job(at=0.1, ski=OTHER_SKI).sends_to("a")


def test_a_full_queue_refuses_at_once() -> None:
    play = RouterPlay(["a"], max_waiting_jobs=2, **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.job(at=0.0).waits()
    play.job(at=0.0).fails(R.QUEUE_FULL, job=3)
    play.cancel(1, at=0.1).nothing()
    play.job(at=0.1).waits()


def test_in_a_full_queue_a_late_job_of_the_site_with_most_goes() -> None:
    play = RouterPlay(["a"], max_waiting_jobs=3, **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    for _ in range(3):
        play.job(at=0.0, site="flood").waits()
    play.job(at=0.0, site="quiet").fails(R.QUEUE_FULL, job=3).waits()
    play.job(at=0.0, site="flood").fails(R.QUEUE_FULL, job=5).waits()


def test_a_job_whose_turn_would_come_too_late_is_shed_at_once() -> None:
    play = RouterPlay(["a"], routing={"queue_wait_s": 0.5}, **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    for _ in range(3):
        play.job(at=0.0).waits()
    for at in (0.2, 0.4):
        play.reply("a", at=at).finishes(by="a").sends_to("a")
    play.job(at=0.4).waits()
    play.job(at=0.4).fails(R.SHED, job=-1)


def test_a_job_that_could_not_be_signed_before_its_deadline_is_shed_at_once() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    for _ in range(3):
        play.job(at=0.0).waits()
    for at in (0.2, 0.4):
        play.reply("a", at=at).finishes(by="a").sends_to("a")
    play.job(at=0.4, deadline=0.7).fails(R.SHED, job=-1)
    play.job(at=0.4, deadline=1.0).waits()


def test_two_sites_take_turns_under_overload_whatever_one_of_them_wants() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    for _ in range(10):
        play.job(at=0.0, site="flood").waits()
    for _ in range(3):
        play.job(at=0.0, site="quiet").waits()
    for _ in range(8):
        play.reply("a", at=0.1).finishes(by="a").sends_to("a")
    served = Counter(job.site for job in play.jobs[1:] if job.is_over or job.attempt)
    assert served == {"flood": 5, "quiet": 3}


def test_a_paused_link_counts_as_full() -> None:
    play = RouterPlay(["a", "b"])
    play.pause("a", at=0.0)
    play.job(at=0.0).sends_to("b")
    play.job(at=0.0).sends_to("b")
    play.pause("b", at=0.0)
    play.job(at=0.0).waits()
    play.pause("a", at=0.1, is_paused=False).sends_to("a")


def test_lines_for_a_node_that_hangs_cost_the_other_nodes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lonely = [number.to_bytes(20, "big") for number in range(300)]
    router = Router(
        [NodeAddress(name=name, address=f"{name}.example:2407") for name in ("a", "b")],
        policy(**ONE_AT_A_TIME),
        rng=Random(1),
    )
    router.on_keys("a", lonely, 0.0)
    router.on_keys("b", [SKI], 0.0)
    for name in ("a", "b"):
        router.on_facts(name, NodeFacts(is_usable=True), 0.0)

    def submit(ski: bytes) -> Attempt | None:
        job = SignJob(ski=ski, scheme=Scheme.ECDSA_SHA256, message=b"", site=ski.hex(), deadline=9.0)
        routed = RoutedJob(job, 0.0, 9.0)
        router.submit(routed, 0.0)
        return routed.attempt

    for ski in lonely:
        submit(ski)
    looks: list[bytes] = []
    is_due = Dispatch._is_due

    def counted(self: Dispatch, ski: bytes, load: NodeLoad, now: float) -> bool:
        looks.append(ski)
        return is_due(self, ski, load, now)

    monkeypatch.setattr(Dispatch, "_is_due", counted)
    attempt = submit(SKI)
    assert attempt is not None
    router.on_signed(attempt, b"", 0.1)
    router.on_time(0.2)
    assert (router.waiting, looks) == (299, [])
    router.on_keys("b", [SKI, lonely[-1]], 0.3)
    assert router.waiting == 298, "the list of keys is news"
