"""When a job that failed is tried again, and at whose expense, as the router's transcripts."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import NodeAddress, RoutingPolicy
from proxy.signing.budget import ShareBudget
from proxy.signing.commands import Command, RoutedJob
from proxy.signing.dispatch import RETRY_BURST, Dispatch
from proxy.signing.facts import NodeFacts
from proxy.signing.router import Router
from tests.support.play import SKI, Outcome, RouterPlay, policy

R = SigningReason
NO_EJECTION: dict[str, Any] = {"eject_after": 1000, "eject_volume": 1000}


def test_after_all_nodes_failed_the_job_rests_longer_each_round_and_gives_up() -> None:
    play = RouterPlay(["a", "b"], max_attempts=5, retry_backoff_s=0.05)
    play.job(at=0.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.0).sends_to("b")
    play.error("b", R.NODE_ERROR, at=0.0).waits()
    play.time(at=0.05).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.05).sends_to("b")
    play.error("b", R.NODE_ERROR, at=0.05).waits()
    play.time(at=0.15).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.15).fails(R.NODE_ERROR).nothing()


def test_a_resting_job_takes_a_node_that_comes_back() -> None:
    play = RouterPlay(["a", "b"])
    play.lose("b", at=0.0)
    play.job(at=0.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.0).waits()
    play.up("b", at=0.01).sends_to("b")


def spend_retries(play: RouterPlay, *, at: float) -> Outcome:
    """Failures that are made good by the other node, until retries have used up their share; the last one."""
    for _ in range(200):
        play.proven("a", at=at)
        play.job(at=at).sends_to("a")
        outcome = play.error("a", R.NODE_ERROR, at=at)
        if play.router.waiting:
            return outcome
        outcome.sends_to("b")
        play.reply("b", at=at).finishes(by="b")
    raise AssertionError("retries have no bound")


def test_a_retry_beyond_its_share_rests_until_other_jobs_have_earned_it() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION, retry_backoff_s=0.05)
    spend_retries(play, at=1.0).delays().waits()
    assert RETRY_BURST <= len(play.jobs) - 1 <= RETRY_BURST * 1.3
    play.time(at=1.05).waits()
    for _ in range(5):
        play.proven("a", at=1.06)
        play.job(at=1.06).sends_to("a")
        play.reply("a", at=1.07).finishes(by="a")
    play.time(at=1.1).sends_to("b")
    play.reply("b", at=1.15).finishes(by="b")


def test_jobs_earn_retries() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.2})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    for _ in range(5):
        play.job(at=1.0).sends_to("a")
        play.reply("a", at=1.0).finishes(by="a")
    play.job(at=1.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=1.0).sends_to("b")


@pytest.mark.parametrize("reason", [R.BUSY, R.KEY_NOT_FOUND, R.DENIED, R.LINK_LOST, R.DRAINING])
def test_what_costs_the_nodes_nothing_is_no_retry_that_is_paid_for(reason: SigningReason) -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    play.job(at=1.0).sends_to("a")
    play.error("a", reason, at=1.0).sends_to("b")


def test_a_job_at_its_deadline_spends_no_retry_and_pushes_nobody_out_of_the_queue() -> None:
    changes: dict[str, Any] = {"max_waiting_jobs": 1, "retry_backoff_s": 1.0}
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01}, **changes)
    spend_retries(play, at=1.0).delays()
    play.proven("a", at=1.0)
    play.job(at=1.0, deadline=1.5).sends_to("a")
    play.timeout("a", at=1.5).fails(R.DEADLINE, job=-1).nothing()


def test_a_job_that_fails_while_stopping_does_not_wait_for_a_retry_either() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01})
    spend_retries(play, at=1.0).delays()
    play.cancel(-1, at=1.0)
    play.proven("a", at=1.0)
    play.job(at=1.0).sends_to("a")
    play.stop().nothing()
    play.error("a", R.NODE_ERROR, at=1.0).fails(R.STOPPED)


def test_a_job_that_owes_a_retry_fails_when_its_key_is_gone() -> None:
    play = RouterPlay(["a", "b"], routing=NO_EJECTION | {"retry_share": 0.01}, retry_backoff_s=0.05)
    spend_retries(play, at=1.0).delays()
    play.remove("a", at=1.01).nothing()
    play.remove("b", at=1.02).fails(R.KEY_NOT_FOUND).nothing()


def test_many_jobs_that_owe_a_retry_ask_for_it_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    router = Router(
        [NodeAddress(name="a", address="a.example:2407")],
        policy(max_in_flight_per_node=2000),
        RoutingPolicy(window_initial=2000, queue_wait_s=60),
        rng=Random(1),
    )
    router.on_keys("a", [SKI], 0.0)
    router.on_facts("a", NodeFacts(is_usable=True), 0.0)
    jobs = [RoutedJob(SignJob(SKI, Scheme.ECDSA_SHA256, b"", "www", 9.0), 0.0, 9.0) for _ in range(1024)]
    for routed in jobs:
        router.submit(routed, 0.0)
    router._dispatch.retries = ShareBudget(0.2, burst=0.0)
    asked: list[RoutedJob] = []
    owe = Dispatch._owe

    def counted(self: Dispatch, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        asked.append(routed)
        owe(self, routed, now, commands)

    monkeypatch.setattr(Dispatch, "_owe", counted)
    for routed in jobs:
        assert routed.attempt is not None
        router.on_error(routed.attempt, SigningError(SigningReason.NODE_ERROR), 0.0)
    assert len(asked) == len(jobs)
    for step in range(1, 101):
        router.on_time(step / 100)
    assert len(jobs) < len(asked) - len(jobs) < 7 * len(jobs), "each some times within a second, and not twenty times"
