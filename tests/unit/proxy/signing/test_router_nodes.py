"""Nodes that come, go, are ejected and return, as the router's transcripts."""

from __future__ import annotations

from typing import Any

from hsm.wire.schemes import KeyFamily
from proxy.base.errors import SigningReason
from tests.support.play import OTHER_SKI, SKI, RouterPlay

R = SigningReason
QUICKLY: dict[str, Any] = {"eject_after": 3, "eject_min_s": 1.0, "eject_max_s": 3.0, "ramp_up_s": 0.0}
PATIENT: dict[str, Any] = {"max_attempts": 100, "attempt_timeout_s": 1.0}


def fail_until_ejected(play: RouterPlay, node: str, *, at: float, until: float, failures: int = 3) -> None:
    """Some jobs fail at `node`, and it is out with the last of them; others sign them."""
    for number in range(failures):
        play.job(at=at)
        play.forget_last()
        attempt = play.jobs[-1].attempt
        assert attempt is not None
        assert attempt.node == node
        outcome = play.error(node, R.NODE_ERROR, at=at)
        if number == failures - 1:
            outcome.ejects(node, until=until)
        play.forget_last()
        again = play.jobs[-1].attempt
        assert again is not None
        play.reply(again.node, at=at)
        play.forget_last()
        play.proven(node, at=at)


def test_failures_in_a_row_eject_a_node_for_a_while_and_it_returns() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY)
    fail_until_ejected(play, "a", at=1.0, until=2.0)
    for _ in range(5):
        play.job(at=1.5).sends_to("b")
    play.time(at=2.0).returns("a").nothing()
    play.job(at=2.0).sends_to("a")


def test_the_first_failure_of_a_node_that_returned_ejects_it_for_longer_up_to_a_bound() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY)
    at = 1.0
    for failures, lasts_s in ((3, 1.0), (1, 2.0), (1, 3.0), (1, 3.0)):
        fail_until_ejected(play, "a", at=at, until=at + lasts_s, failures=failures)
        at += lasts_s
        play.time(at=at).returns("a")


def test_jobs_under_way_at_an_ejected_node_may_finish_there() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY)
    play.job(at=0.5).sends_to("a")
    kept = play.attempts["a"].pop()
    play.job(at=0.5).sends_to("b")
    fail_until_ejected(play, "a", at=1.0, until=2.0)
    play.attempts["a"] = [kept]
    play.reply("a", at=1.5).finishes(by="a")


def test_a_key_whose_jobs_alone_go_wrong_is_out_at_that_node_only() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY | {"eject_after": 4})
    for node in "ab":
        play.keys(node, [SKI, OTHER_SKI], at=0.0)
    for number in range(4):
        play.job(at=1.0).sends_to("a")
        outcome = play.error("a", R.NODE_ERROR, at=1.0)
        if number == 3:
            outcome.ejects("a", ski=SKI, until=2.0)
        outcome.sends_to("b")
        play.reply("b", at=1.0).finishes(by="b")
        play.proven("a", at=1.0)
        play.job(at=1.0, ski=OTHER_SKI).sends_to("a")
        play.reply("a", at=1.0).finishes(by="a")
    play.job(at=1.0).sends_to("b")
    play.job(at=1.0, ski=OTHER_SKI).sends_to("a")
    play.time(at=2.0).returns("a", ski=SKI)


def test_the_only_holder_of_a_key_is_asked_though_it_is_ejected() -> None:
    play = RouterPlay(["a", "b", "c"], routing=QUICKLY, retry_backoff_s=0.01)
    play.keys("b", [OTHER_SKI], at=0.0)
    play.keys("c", [OTHER_SKI], at=0.0)
    play.job(at=1.0).sends_to("a")
    at = 1.0
    for _ in range(2):
        play.error("a", R.NODE_ERROR, at=at).waits()
        at, outcome = play.next_time(at)
        outcome.sends_to("a")
    play.error("a", R.NODE_ERROR, at=at).ejects("a", until=at + 1.0).waits()
    play.job(at=at).sends_to("a")
    play.reply("a", at=at).finishes(by="a")
    play.job(at=at, ski=OTHER_SKI).sends_to("b")


def test_a_node_that_is_out_is_the_last_resort_when_the_others_are_gone() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY)
    fail_until_ejected(play, "a", at=1.0, until=2.0)
    play.job(at=1.1).sends_to("b")
    play.lose("b", at=1.2).sends_to("a")
    play.job(at=1.3).sends_to("a")


def test_who_waits_for_a_full_node_goes_to_the_last_resort_when_that_node_is_lost() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY, max_in_flight_per_node=2)
    play.pause("b", at=0.5)
    fail_at_a_alone(play, at=1.0)
    play.job(at=1.0).waits()
    play.lose("b", at=1.1).sends_to("a").nothing()


def fail_at_a_alone(play: RouterPlay, *, at: float) -> None:
    """`a` fails three times, and is out; `b` takes nothing."""
    for number in range(3):
        play.proven("a", at=at)
        play.job(at=at).sends_to("a")
        outcome = play.error("a", R.NODE_ERROR, at=at)
        if number == 2:
            outcome.ejects("a", until=at + 1.0)
        outcome.waits()
        play.cancel(-1, at=at).nothing()


def test_no_more_than_a_share_of_the_nodes_is_out_and_a_node_too_many_stays_in() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY | {"max_ejected_share": 0.5})
    play.up("a", at=0.0, failing=[KeyFamily.EC])
    play.up("b", at=0.1, failing=[KeyFamily.EC])
    for _ in range(3):
        play.job(at=1.0).sends_to("b")
    play.up("a", at=2.0)
    play.job(at=2.0).sends_to("a")


def test_a_timeout_that_was_only_the_jobs_own_deadline_is_no_failure_of_the_node() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY, **PATIENT)
    for number in range(5):
        at = number * 0.1
        play.job(at=at, deadline=at + 0.01).sends_to("a")
        play.timeout("a", at=at + 0.01).fails(R.DEADLINE)


def test_a_node_that_came_back_gets_its_share_slowly() -> None:
    play = RouterPlay(["a", "b"], routing={"ramp_up_s": 5.0})
    play.lose("a", at=0.0)
    play.up("a", at=1.0)
    sent = []
    for _ in range(11):
        play.job(at=1.0)
        play.forget_last()
        attempt = play.jobs[-1].attempt
        assert attempt is not None
        sent.append(attempt.node)
    assert sent.count("a") <= 2
    play.job(at=6.1).sends_to("a")


# nodes that come and go


def test_a_node_that_comes_takes_who_waits() -> None:
    play = RouterPlay(["a"], max_in_flight_per_node=1)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.add("b", at=0.1).sends_to("b").nothing()


def test_a_node_that_goes_leaves_its_jobs_to_others() -> None:
    play = RouterPlay(["a", "b"])
    for node in "abab":
        play.job(at=0.0).sends_to(node)
    play.remove("a", at=0.1).sends_to("b").sends_to("b").nothing()
    assert list(play.router.fleet.loads) == ["b"]
    play.job(at=0.1).sends_to("b")


def test_with_the_last_holder_of_its_key_a_job_fails_at_once() -> None:
    play = RouterPlay(["a", "b"], max_in_flight_per_node=1)
    play.keys("b", [OTHER_SKI], at=0.0)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.remove("a", at=0.1).fails(R.KEY_NOT_FOUND).fails(R.KEY_NOT_FOUND).nothing()


def test_a_node_that_goes_takes_its_ejection_with_it() -> None:
    play = RouterPlay(["a", "b"], routing=QUICKLY)
    fail_until_ejected(play, "a", at=1.0, until=2.0)
    play.remove("a", at=1.5).nothing()
    play.add("a", at=1.6)
    play.job(at=1.6).sends_to("b")
    play.job(at=1.6).sends_to("a")
    assert play.router.next_time(1.6) == float("inf")


def test_without_any_node_jobs_fail_at_once_until_one_comes() -> None:
    play = RouterPlay(["a"])
    play.remove("a", at=0.0).nothing()
    play.job(at=0.0).fails(R.KEY_NOT_FOUND)
    play.add("b", at=0.1)
    play.job(at=0.1).sends_to("b")
