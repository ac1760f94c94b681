"""When a second node is asked, and how often."""

from __future__ import annotations

from proxy.signing.hedging import AT_EASE, HEDGE_BURST, Hedges
from proxy.signing.selection import Seat
from proxy.signing.waiting import NEVER
from tests.support.seats import attempt, seat


def rich(share: float = 0.5) -> Hedges:
    hedges = Hedges(share)
    for _ in range(100):
        hedges.earn()
    return hedges


def test_slow_attempts_come_up_once_in_the_order_of_their_times() -> None:
    hedges = Hedges(0.05)
    late, soon = (attempt(seat("a"), deadline=9.0) for _ in range(2))
    hedges.note(late, 0.3, 1.0)
    hedges.note(soon, 0.1, 1.0)
    assert hedges.next_time() == 1.1
    assert list(hedges.due(1.05)) == []
    assert list(hedges.due(2.0)) == [soon, late]
    assert list(hedges.due(2.0)) == []
    assert hedges.next_time() == NEVER


def test_what_has_ended_does_not_come_up() -> None:
    hedges = Hedges(0.05)
    over, open_ = (attempt(seat("a"), deadline=9.0) for _ in range(2))
    hedges.note(over, 0.1, 1.0)
    hedges.note(open_, 0.2, 1.0)
    over.is_over = True
    assert hedges.next_time() == 1.2
    assert list(hedges.due(2.0)) == [open_]


def test_nothing_is_noted_where_it_would_be_no_help() -> None:
    unknown, too_late, off = Hedges(0.05), Hedges(0.05), Hedges(0.0)
    unknown.note(attempt(seat("a"), deadline=9.0), 0.0, 1.0)
    too_late.note(attempt(seat("a"), deadline=1.2), 0.2, 1.0)
    off.note(attempt(seat("a"), deadline=9.0), 0.2, 1.0)
    assert {each.next_time() for each in (unknown, too_late, off)} == {NEVER}


def test_second_attempts_stay_within_their_share() -> None:
    hedges, other, taken = Hedges(0.05), seat("b"), 0
    slow = attempt(seat("a"))
    for _ in range(1000):
        hedges.earn()
        taken += hedges.take(slow, lambda: other, 1.0) is not None
    assert 48 <= taken <= 50
    for _ in range(10_000):
        hedges.earn()
    burst = [hedges.take(slow, lambda: other, 1.0) for _ in range(100)]
    assert burst.count(other) == int(HEDGE_BURST)


def test_without_a_budget_nobody_is_looked_for() -> None:
    def choose() -> Seat:
        raise AssertionError("to choose costs time")

    assert Hedges(0.05).take(attempt(seat("a")), choose, 0.0) is None


def test_a_node_with_something_against_it_is_not_asked_and_costs_no_budget() -> None:
    hedges, suspect, good = Hedges(1.0), seat("b"), seat("c")
    hedges.earn()
    suspect.suspect_until, suspect.suspect_is_hung = 5.0, True
    assert hedges.take(attempt(seat("a")), lambda: suspect, 1.0) is None
    assert hedges.take(attempt(seat("a")), lambda: None, 1.0) is None
    assert hedges.take(attempt(seat("a")), lambda: good, 1.0) is good


def test_a_strained_node_is_asked_only_for_one_that_answers_nobody() -> None:
    hedges, strained = rich(), seat("b")
    strained.load.window.strain = AT_EASE * 1.1
    busy, hung = attempt(seat("a"), started=1.0), attempt(seat("c"), started=1.0)
    busy.seat.load.last_good = 1.5
    hung.seat.load.last_good = 0.5
    assert hedges.take(busy, lambda: strained, 2.0) is None
    assert hedges.take(hung, lambda: strained, 2.0) is strained
