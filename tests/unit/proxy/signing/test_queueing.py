"""Whether a job may wait, and who must go for it."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.base.errors import SigningReason
from proxy.base.policy import RoutingPolicy
from proxy.signing.facts import NodeFacts
from proxy.signing.pressure import NO_PRESSURE
from proxy.signing.queueing import JobQueue, Refused
from proxy.signing.selection import Seats
from tests.support.seats import OTHER, job, policy, seat, seats

R = SigningReason
ROUTING = RoutingPolicy(queue_wait_s=1.0, no_node_wait_s=0.5)


def make(routing: RoutingPolicy = ROUTING, **changes: Any) -> JobQueue:
    return JobQueue(policy(**changes), routing, {})


def up() -> Seats:
    """A node whose limit is known: it has once been too slow."""
    made = seat("a")
    made.load.window.missed(0.0)
    return seats([made])


def down() -> Seats:
    made = seat("a")
    made.load.facts = NodeFacts()
    return seats([made])


def backlog(queue: JobQueue, count: int, pace_s: float) -> float:
    """`count` jobs that wait in a line that moves at this pace; the time."""
    now = 100.0
    for _ in range(count + 20):
        queue.jobs.add(job())
    for _ in range(20):
        now += pace_s
        first = queue.jobs.first_ready(lambda _ski: True)
        assert first is not None
        queue.jobs.remove(first)
        queue.jobs.served(first, now)
    return now


def reasons(refused: Refused) -> list[SigningReason]:
    return [error.reason for _, error in refused]


def test_a_job_waits_in_line_for_a_node_that_is_full() -> None:
    queue = make()
    assert queue.enter(job(), up(), 1.0) == []
    assert queue.jobs.has_ready()


def test_nobody_is_shed_while_a_node_s_window_still_doubles() -> None:
    queue, new = make(), seats([seat("a")])
    new[0].in_flight = new[0].load.in_flight = new[0].load.limit
    now = backlog(queue, 50, 0.1)
    assert queue.enter(job(), new, now) == []
    assert queue.pressure(now, "", lambda _now: 10.0) == NO_PRESSURE
    new[0].load.window.missed(now)
    assert reasons(queue.enter(job(), new, now)) == [R.SHED]
    assert queue.pressure(now, "", lambda _now: 10.0).is_short


def test_a_job_whose_turn_would_come_too_late_is_shed_at_once() -> None:
    queue = make()
    now = backlog(queue, 200, 0.01)
    routed = job()
    ((gone, error),) = queue.enter(routed, up(), now)
    assert (gone, error.reason, len(queue.jobs)) == (routed, R.SHED, 200)


@pytest.mark.parametrize(("left_s", "is_shed"), [(0.3, True), (0.45, True), (0.7, False)])
def test_a_job_is_shed_that_would_be_signed_after_its_deadline(left_s: float, is_shed: bool) -> None:
    queue, nodes = make(), up()
    now = backlog(queue, 39, 0.01)
    nodes[0].pace.usual.median_s = 0.1
    assert reasons(queue.enter(job(deadline=now + left_s), nodes, now)) == [R.SHED] * is_shed


def test_another_site_s_line_does_not_count() -> None:
    queue = make()
    now = backlog(queue, 500, 0.01)
    assert queue.enter(job(site="other"), up(), now) == []


def test_while_no_node_is_up_a_job_rests_and_then_fails() -> None:
    queue, routed = make(), job()
    assert queue.enter(routed, down(), 10.0) == []
    assert queue.jobs.next_time() == 10.5
    assert list(queue.jobs.take_rested(10.5)) == [routed]
    assert reasons(queue.enter(routed, down(), 10.5)) == [R.NO_NODE]


def test_the_wait_for_a_node_is_not_begun_anew() -> None:
    queue, routed = make(), job()
    queue.enter(routed, down(), 10.0)
    assert queue.jobs.take_resting() == [routed]
    queue.enter(routed, down(), 10.3)
    assert queue.jobs.next_time() == 10.5


def test_who_was_tried_lately_rests() -> None:
    queue, routed = make(), job()
    routed.tried, routed.not_before = ("a",), 10.2
    assert queue.enter(routed, up(), 10.0) == []
    assert not queue.jobs.has_ready()
    assert queue.jobs.next_time() == 10.2


def test_who_was_refused_somewhere_does_not_stand_in_line() -> None:
    queue, routed = make(retry_backoff_s=0.05), job()
    routed.refused = routed.tried = ("a",)
    assert queue.enter(routed, seats([seat("a"), seat("b")]), 10.0) == []
    assert not queue.jobs.has_ready()
    assert queue.jobs.next_time() == pytest.approx(10.05)


@pytest.mark.parametrize("is_resting", [False, True])
def test_in_a_full_queue_one_of_the_longest_line_goes(is_resting: bool) -> None:
    queue = make(max_waiting_jobs=10)
    for _ in range(10):
        queue.jobs.add(job(OTHER, "flood"), rest_until=99.0 if is_resting else 0.0)
    quiet, flood = job(site="quiet"), job(OTHER, "flood")
    ((gone, error),) = queue.enter(quiet, up(), 1.0)
    assert (gone.site, gone.place, error.reason, "10 jobs" in str(error)) == ("flood", 0, R.QUEUE_FULL, True)
    assert quiet.place
    assert len(queue.jobs) == 10
    assert [gone for gone, _ in queue.enter(flood, up(), 1.0)] == [flood]
    assert [gone for gone, _ in queue.rest(flood, 2.0)] == [flood]
    assert not flood.place


def test_a_site_is_short_of_capacity_by_its_own_line() -> None:
    queue = make()
    now = backlog(queue, 60, 0.01)
    queue.jobs.add(job(site="other"))
    found = queue.pressure(now, "site", lambda _now: 7.0)
    assert (found.is_short, found.rate_per_s, found.wait_s) == (True, pytest.approx(100.0), pytest.approx(0.61))
    assert queue.pressure(now, "other", lambda _now: 7.0) is NO_PRESSURE
    assert queue.pressure(now, "", lambda _now: 7.0) == found, "any site counts where none is named"
    assert make().pressure(now, "", lambda _now: 7.0) is NO_PRESSURE
