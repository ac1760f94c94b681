"""The router's decisions about one job after another, as transcripts."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hsm.wire.schemes import KeyFamily, KeyType
from proxy.base.errors import SigningReason
from proxy.signing.fleet import BUSY_MAX_S, BUSY_MIN_S, CALM_STEP_S, SUSPECT_S
from proxy.signing.waiting import NEVER
from tests.support.play import OTHER_SKI, SKI, RouterPlay

R = SigningReason
NO_EJECTION: dict[str, Any] = {"eject_after": 1000, "eject_volume": 1000}
ONE_AT_A_TIME: dict[str, Any] = {"max_in_flight_per_node": 1}


def test_a_job_is_signed_by_the_node_that_was_asked() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.reply("a", at=0.1).finishes(by="a").nothing()
    assert play.router.active == play.router.waiting == 0


def test_the_node_with_fewer_requests_under_way_is_asked() -> None:
    play = RouterPlay(["a", "b"])
    for node in "abab":
        play.job(at=0.0).sends_to(node)
    play.reply("b", at=0.1).finishes(by="b")
    play.reply("b", at=0.1).finishes(by="b")
    play.job(at=0.1).sends_to("b")


def test_the_node_that_answers_faster_is_asked() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).sends_to("b")
    play.reply("b", at=0.01).finishes(by="b")
    play.reply("a", at=0.1).finishes(by="a")
    for _ in range(5):
        play.job(at=0.1).sends_to("b")


# what the end of an attempt means for the job and for the node


def test_second_node_is_asked_when_the_first_is_busy() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.BUSY, at=0.1).sends_to("b")
    play.reply("b", at=0.2).finishes(by="b").nothing()


def test_a_busy_node_is_left_out_as_long_as_it_asked_for() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.BUSY, at=0.0, retry_after_s=0.5).sends_to("b")
    play.job(at=0.4).sends_to("b")
    play.job(at=0.51).sends_to("a")


def test_when_every_node_is_busy_the_job_waits_for_the_first_that_is_not() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.BUSY, at=0.0, retry_after_s=0.5).sends_to("b")
    play.error("b", R.BUSY, at=0.1, retry_after_s=0.2).waits()
    play.time(at=0.3).sends_to("b")
    play.reply("b", at=0.4).finishes(by="b")


@pytest.mark.parametrize(("asked_s", "given_s"), [(0.0, BUSY_MIN_S), (3600.0, BUSY_MAX_S)])
def test_retry_after_is_kept_within_bounds(asked_s: float, given_s: float) -> None:
    play = RouterPlay(["a"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.BUSY, at=0.0, retry_after_s=asked_s).waits()
    play.time(at=given_s).sends_to("a")


def test_a_busy_node_that_names_no_time_is_left_out_longer_each_time() -> None:
    play = RouterPlay(["a"])
    play.job(at=0.0).sends_to("a")
    at, pauses = 0.0, []
    for _ in range(4):
        play.error("a", R.BUSY, at=at).waits()
        due = play.router.next_time(at)
        pauses.append(round(due - at, 6))
        play.time(at=due).sends_to("a")
        at = due
    assert pauses == [0.01, 0.02, 0.04, 0.08]


def test_busy_answers_are_not_counted_as_failures() -> None:
    play = RouterPlay(["a"], max_attempts=1)
    play.job(at=0.0).sends_to("a")
    for at in (0.0, 1.0, 2.0):
        play.error("a", R.BUSY, at=at, retry_after_s=1.0).waits()
        play.time(at=at + 1.0).sends_to("a")
    play.reply("a", at=3.1).finishes(by="a")


def test_a_hung_node_costs_one_attempt_timeout() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0).sends_to("a")
    play.timeout("a", at=1.0).sends_to("b")
    play.reply("b", at=1.1).finishes(by="b")


def test_the_attempt_timeout_follows_what_is_usual() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0, routing={"hedge_share": 0.0})
    at = play.learn(at=0.0, took_s=0.1)
    play.job(at=at)
    play.forget_last()
    assert play.jobs[-1].attempt is not None
    assert play.jobs[-1].attempt.deadline - at == pytest.approx(0.3, rel=0.1)


def test_a_node_that_failed_is_suspect_and_asked_last_until_it_proves_itself() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0).sends_to("a")
    play.timeout("a", at=1.0).sends_to("b")
    for _ in range(5):
        play.job(at=1.0).sends_to("b")
    play.proven("a", at=1.0)
    play.job(at=1.0).sends_to("a")


def test_a_failure_makes_a_node_suspect_for_its_key_and_a_second_key_for_all() -> None:
    third = bytes(20)
    play = RouterPlay(["a", "b"], routing=NO_EJECTION)
    for node in "ab":
        play.keys(node, [SKI, OTHER_SKI, third], at=0.0)
    for ski in (SKI, OTHER_SKI):
        play.job(at=0.0, ski=ski).sends_to("a")
        play.error("a", R.NODE_ERROR, at=0.0).sends_to("b")
        play.reply("b", at=0.0).finishes(by="b")
    play.job(at=0.0, ski=third).sends_to("b")


def test_a_suspicion_ends_by_itself() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0).sends_to("a")
    play.timeout("a", at=1.0).sends_to("b")
    play.job(at=1.0 + SUSPECT_S).sends_to("a")


def test_who_waits_beside_a_node_that_hung_is_sent_there_when_its_suspicion_is_over() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0).sends_to("a")
    play.timeout("a", at=1.0).sends_to("b")
    play.pause("b", at=1.0)
    play.job(at=1.0).waits()
    play.time(at=1.0 + SUSPECT_S + CALM_STEP_S).sends_to("a")


def test_jobs_of_a_lost_node_go_elsewhere_at_once() -> None:
    play = RouterPlay(["a", "b"])
    for node in "abab":
        play.job(at=0.0).sends_to(node)
    play.lose("a", at=0.5).sends_to("b").sends_to("b").nothing()
    play.job(at=0.6).sends_to("b")
    assert play.router.load_of("a").in_flight == 0


def test_a_wrong_signature_is_made_good_by_another_node() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.WRONG_SIGNATURE, at=0.0).sends_to("b")
    play.job(at=0.0).sends_to("b")


def test_a_request_that_is_wrong_everywhere_is_not_repeated() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.NODE_ERROR, at=0.0, is_final=True).fails(R.NODE_ERROR).nothing()


def test_an_answer_that_the_node_drains_takes_it_out() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.DRAINING, at=0.1).sends_to("b")
    play.job(at=0.1).sends_to("b")


def test_a_draining_node_takes_nothing_new_and_finishes_what_it_has() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).sends_to("b")
    play.down("a", at=0.1)
    play.job(at=0.1).sends_to("b")
    play.reply("a", at=0.2).finishes(by="a")


def test_a_node_that_refuses_access_is_not_asked_again_for_this_job() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.DENIED, at=0.0).sends_to("b")
    play.error("b", R.NODE_ERROR, at=0.0).waits()
    play.time(at=0.05).sends_to("b")


def test_when_every_node_refuses_access_the_job_fails_at_once() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0).sends_to("a")
    play.error("a", R.DENIED, at=0.0).sends_to("b")
    play.error("b", R.DENIED, at=0.0).fails(R.DENIED)


# keys


def test_a_missing_key_is_learnt_and_the_other_node_asked() -> None:
    play = RouterPlay(["a", "b"])
    play.keys("a", None, at=0.0)
    play.job(at=0.0).sends_to("a")
    play.error("a", R.KEY_NOT_FOUND, at=0.1).sends_to("b")
    play.job(at=0.2).sends_to("b")
    play.job(at=0.2).sends_to("b")


def test_a_node_that_lacks_one_key_is_out_for_that_key_only() -> None:
    play = RouterPlay(["a", "b"])
    for node in "ab":
        play.keys(node, [SKI, OTHER_SKI], at=0.0)
    play.lacks("a", SKI, at=0.0).nothing()
    play.job(at=0.0).sends_to("b")
    play.job(at=0.0).sends_to("b")
    play.job(at=0.0, ski=OTHER_SKI).sends_to("a")


def test_a_key_that_no_node_holds_fails_at_once() -> None:
    play = RouterPlay(["a", "b"])
    play.job(at=0.0, ski=OTHER_SKI).fails(R.KEY_NOT_FOUND)


def test_a_key_that_a_node_not_seen_yet_may_hold_waits_for_it() -> None:
    play = RouterPlay(["a", "b"], up=False)
    play.keys("a", [SKI], at=0.0)
    play.up("a", at=0.0)
    play.job(at=0.0, ski=OTHER_SKI).waits()
    play.keys("b", [SKI], at=0.5).fails(R.KEY_NOT_FOUND)


def test_who_waits_for_a_key_fails_when_a_probe_finds_that_its_last_node_lacks_it() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.lacks("a", SKI, at=0.1).fails(R.KEY_NOT_FOUND, job=1).nothing()


def test_a_family_of_keys_whose_probes_fail_is_out_and_others_are_not() -> None:
    play = RouterPlay(["a", "b"], kinds={SKI: KeyType.RSA_2048, OTHER_SKI: KeyType.P256})
    for node in "ab":
        play.keys(node, [SKI, OTHER_SKI], at=0.0)
    play.up("a", at=0.0, failing=[KeyFamily.RSA])
    play.job(at=0.0).sends_to("b")
    play.job(at=0.0).sends_to("b")
    play.job(at=0.0, ski=OTHER_SKI).sends_to("a")
    play.up("a", at=1.0)
    play.job(at=7.0).sends_to("a")


def test_a_node_is_only_counted_for_keys_it_holds() -> None:
    play = RouterPlay(["a", "b"])
    assert play.router.has_node_for(SKI, 0.0)
    assert not play.router.has_node_for(OTHER_SKI, 0.0)
    play.lose("a", at=0.0)
    play.lose("b", at=0.0)
    assert not play.router.has_node_for(SKI, 0.0)


# ends


def test_a_cancelled_job_is_cancelled_at_its_node_and_makes_room() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.cancel(0, at=0.1).cancels("a").sends_to("a").nothing()
    play.cancel(0, at=0.1).nothing()
    play.reply("a", at=0.2).finishes(by="a").nothing()


def test_a_late_answer_to_an_attempt_that_was_given_up_is_ignored() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0).sends_to("a")
    given_up = play.attempts["a"][0]
    play.timeout("a", at=1.0).sends_to("b")
    assert play.router.on_signed(given_up, b"late", 1.1) == []
    assert play.router.on_attempt_timeout(given_up, 1.1) == []
    play.reply("b", at=1.2).finishes(by="b")


def test_an_attempt_never_outlives_its_job() -> None:
    play = RouterPlay(["a", "b"], attempt_timeout_s=1.0)
    play.job(at=0.0, deadline=0.3).sends_to("a")
    play.timeout("a", at=0.3).fails(R.DEADLINE).nothing()


def test_a_job_that_comes_too_late_fails_at_once() -> None:
    play = RouterPlay(["a"])
    play.job(at=1.0, deadline=1.0).fails(R.DEADLINE)


def test_stopping_fails_those_who_wait_and_lets_nodes_answer() -> None:
    play = RouterPlay(["a"], **ONE_AT_A_TIME)
    play.job(at=0.0).sends_to("a")
    play.job(at=0.0).waits()
    play.stop().fails(R.STOPPED).nothing()
    play.job(at=0.1).fails(R.STOPPED)
    play.reply("a", at=0.2).finishes(by="a")


def test_a_job_that_fails_while_stopping_does_not_wait() -> None:
    play = RouterPlay(["a"])
    play.job(at=0.0).sends_to("a")
    play.stop().nothing()
    play.error("a", R.NODE_ERROR, at=0.1).fails(R.STOPPED)


def test_nothing_is_due_when_nothing_waits_and_nobody_knows_what_is_slow() -> None:
    play = RouterPlay(["a"], rng=Random(1))
    play.job(at=0.0)
    assert play.router.next_time(0.0) == NEVER
