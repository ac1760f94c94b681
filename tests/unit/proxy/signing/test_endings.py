"""Errors in words, and what an end means for the job."""

from __future__ import annotations

import pytest

from proxy.base.errors import SigningError, SigningReason
from proxy.signing import endings
from tests.support.seats import KEY, job

R = SigningReason


def test_errors_say_what_was_asked_and_what_was_answered() -> None:
    routed = job()
    routed.attempts, routed.last_error = 2, SigningError(R.TIMEOUT, "no answer in time", node="a")
    late = endings.too_late(routed, has_node=True)
    assert (late.reason, "2 attempts" in str(late), "no answer in time" in str(late)) == (R.DEADLINE, True, True)
    lonely = endings.too_late(routed, has_node=False)
    assert (lonely.reason, KEY.hex() in str(lonely)) == (R.NO_NODE, True)
    shed = endings.shed(2.25, 17)
    assert (shed.reason, "2.2 s" in str(shed), "17 jobs" in str(shed)) == (R.SHED, True, True)
    assert "4096" in str(endings.queue_full(4096))


def test_a_job_that_no_node_had_room_for_does_not_speak_of_attempts() -> None:
    error = endings.too_late(job(), has_node=True)
    assert error.reason is R.DEADLINE
    assert "attempt" not in str(error)


def test_when_all_refuse_their_word_is_the_answer() -> None:
    routed = job()
    assert endings.nowhere(routed).reason is R.KEY_NOT_FOUND
    routed.last_error, routed.refused = SigningError(R.DENIED, "not yours"), ("a",)
    assert endings.nowhere(routed) is routed.last_error


def test_no_end_is_both_free_and_paid_for() -> None:
    assert not endings.UNCOUNTED & endings.PAID
    assert R.LINK_LOST not in endings.PAID, "a lost link costs no node anything, and fails many jobs at once"


@pytest.mark.parametrize("reason", sorted({R.TIMEOUT, R.BUSY, R.DENIED, R.LINK_LOST, R.KEY_NOT_FOUND}))
def test_what_a_failure_leaves_behind(reason: SigningReason) -> None:
    routed, error = job(), SigningError(reason, "why")
    endings.note(routed, "a", error, 10.0, 0.1)
    endings.note(routed, "a", error, 10.0, 0.1)
    is_counted = reason not in endings.UNCOUNTED
    assert routed.tried == ("a",)
    assert routed.last_error is error
    assert set(routed.refused) == ({"a"} if reason is R.DENIED else set())
    assert routed.attempts == (2 if is_counted else 0)
    assert routed.not_before == (pytest.approx(10.1) if is_counted else 0.0)


def test_rests_double_with_each_round_up_to_a_bound() -> None:
    rests = []
    for rounds in range(12):
        routed = job()
        routed.rounds = rounds
        endings.note(routed, "a", SigningError(R.TIMEOUT, ""), 0.0, 1.0)
        rests.append(routed.not_before)
    assert rests == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256]
