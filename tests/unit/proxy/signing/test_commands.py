"""A job on its way."""

from __future__ import annotations

from proxy.signing.commands import Attempt, CancelAttempt
from tests.support.seats import KEY, job, seat


def test_a_job_begins_nowhere_with_a_clean_record() -> None:
    routed = job(site="shop", deadline=7.0, started=2.0)
    assert (routed.ski, routed.site, routed.started, routed.deadline) == (KEY, "shop", 2.0, 7.0)
    assert (routed.attempt, routed.hedge, routed.is_over, routed.place) == (None, None, False, 0)
    assert (routed.attempts, routed.tried, routed.refused, routed.last_error) == (0, (), (), None)


def test_an_attempt_knows_its_node_and_is_no_hedge_unless_told() -> None:
    where, routed = seat("a"), job()
    made = Attempt(routed, where, 1.0, 2.0)
    assert (made.node, made.seat, made.routed) == ("a", where, routed)
    assert not made.is_hedge
    assert not made.is_over


def test_a_cancelled_attempt_was_outrun_only_where_that_is_said() -> None:
    assert not CancelAttempt(Attempt(job(), seat("a"), 0.0, 1.0)).is_outrun
