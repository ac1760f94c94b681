"""The router asks a second node beside a slow one, as transcripts."""

from __future__ import annotations

from typing import Any

import pytest

from hsm.wire.schemes import KeyFamily, KeyType
from proxy.base.errors import SigningReason
from proxy.signing.latency import FEWEST_SAMPLES
from proxy.signing.waiting import NEVER
from tests.support.play import OTHER_SKI, SKI, RouterPlay

R = SigningReason
ONE_AT_A_TIME: dict[str, Any] = {"max_in_flight_per_node": 1}


def test_a_slow_attempt_is_joined_by_a_second_and_the_first_good_answer_wins() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.reply(second, at=at + 0.02).finishes(by=second, is_hedge=True).outruns(first).nothing()
    assert play.router.active == 0


def test_the_first_may_still_be_the_faster_one() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.reply(first, at=at + 0.02).finishes(by=first).outruns(second).nothing()


def test_a_failed_first_attempt_leaves_the_second_alone() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.error(first, R.NODE_ERROR, at=at + 0.02).nothing()
    play.reply(second, at=at + 0.03).finishes(by=second, is_hedge=True).nothing()


def test_when_both_have_failed_the_job_is_tried_again() -> None:
    play = RouterPlay(["a", "b"], retry_backoff_s=0.05)
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.error(second, R.NODE_ERROR, at=at + 0.02).nothing()
    play.error(first, R.NODE_ERROR, at=at + 0.02).waits()
    due, outcome = play.next_time(at + 0.02)
    assert due == pytest.approx(at + 0.07)
    assert play.jobs[-1].attempts == 2
    assert play.jobs[-1].attempt is not None
    outcome.sends_to(play.jobs[-1].attempt.node)


def test_a_client_that_leaves_is_told_to_both_nodes() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.cancel(-1, at=at + 0.02).cancels(first).cancels(second).nothing()


def test_a_lost_link_ends_only_its_own_attempt_of_two() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.lose(first, at=at + 0.02).nothing()
    play.reply(second, at=at + 0.03).finishes(by=second, is_hedge=True).nothing()


def test_jobs_that_wait_for_another_key_do_not_keep_a_second_node_from_being_asked() -> None:
    play = RouterPlay(["a", "b"], kinds={SKI: KeyType.P256, OTHER_SKI: KeyType.P256}, **ONE_AT_A_TIME)
    play.keys("a", [SKI, OTHER_SKI], at=0.0)
    at = play.learn(at=0.0)
    play.pause("b", at=at)
    play.job(at=at).sends_to("a")
    play.job(at=at, ski=OTHER_SKI).waits()
    play.pause("b", at=at, is_paused=False).nothing()
    _, outcome = play.next_time(at)
    outcome.hedges_at("b").nothing()


def test_no_second_node_is_asked_while_nobody_knows_what_is_slow() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.learn(at=0.0, count=FEWEST_SAMPLES - 1)
    play.job(at=10.0)
    assert play.router.next_time(10.0) == NEVER


def test_no_second_node_is_asked_that_is_out_of_rotation() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    play.up("b", at=at, failing=[KeyFamily.EC])
    play.job(at=at).sends_to("a")
    _, outcome = play.next_time(at)
    outcome.nothing()


def test_second_attempts_are_a_share_of_the_jobs() -> None:
    play = RouterPlay(["a", "b"], routing={"hedge_share": 0.05})
    at, hedges = play.learn(at=0.0, count=60), 0
    while True:
        play.job(at=at)
        attempt = play.jobs[-1].attempt
        assert attempt is not None
        play.forget_last()
        _, outcome = play.next_time(at)
        if play.jobs[-1].hedge is None:
            break
        hedges += 1
        outcome.hedges_at(play.jobs[-1].hedge.node)
        play.reply(attempt.node, at=at + 0.02)
        play.forget_last()
        at += 0.02
    assert hedges == int(0.05 * len(play.jobs)) == 3


def test_hedging_can_be_turned_off() -> None:
    play = RouterPlay(["a", "b"], routing={"hedge_share": 0.0})
    at = play.learn(at=0.0)
    play.job(at=at)
    assert play.router.next_time(at) == NEVER


def asked_twice(play: RouterPlay, *, at: float) -> tuple[str, str]:
    """A job whose first node is slow, so that a second is asked; both."""
    play.job(at=at)
    play.forget_last()
    attempt = play.jobs[-1].attempt
    assert attempt is not None
    due, outcome = play.next_time(at)
    assert at + 0.009 < due < at + 0.012
    other = "b" if attempt.node == "a" else "a"
    outcome.hedges_at(other).nothing()
    return attempt.node, other


def test_abandoning_fails_what_is_left_once_even_where_two_nodes_work_on_it() -> None:
    play = RouterPlay(["a", "b"])
    at = play.learn(at=0.0)
    first, second = asked_twice(play, at=at)
    play.abandon().cancels(first).fails(R.STOPPED).cancels(second).nothing()
    assert play.router.active == 0
