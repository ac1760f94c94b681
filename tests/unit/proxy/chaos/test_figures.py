"""From handshakes to figures: percentiles, phases, failures and recovery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chaos.figures import (
    LATE_S,
    Handshake,
    Spread,
    Window,
    errors_of,
    longest_failure,
    percentile,
    phases_of,
    recovery,
    spread_of,
)

WINDOW = Window(begin=0.0, fault=10.0, end=20.0, close=30.0)


def made(due: float, latency: float, error: str = "", late: float = 0.0) -> Handshake:
    return Handshake("localhost", due, due + late, due + latency, error)


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.001, 1)])
def test_percentiles_are_nearest_ranks(share: float, value: float) -> None:
    assert percentile([float(number) for number in range(1, 101)], share) == value


def test_one_value_is_every_percentile_and_none_has_none() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.999) == 7.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


@given(values=st.lists(st.floats(0, 1e6), min_size=1), share=st.floats(0.001, 1))
def test_a_percentile_is_a_value_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    found = percentile(sorted(values), share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_a_spread_counts_all_and_measures_the_good() -> None:
    handshakes = [made(0, 0.010), made(1, 0.030), made(2, 5.0, "timed out")]
    assert spread_of(handshakes) == Spread(3, 1, 10.0, 30.0, 30.0, 30.0)
    assert spread_of([made(0, 1, "no")]) == Spread(1, 1)
    assert spread_of([]) == Spread(0, 0)


def test_latency_counts_from_when_it_was_due_and_not_from_when_the_load_had_time() -> None:
    one = made(1.0, 0.5, late=0.4)
    assert one.latency_s == pytest.approx(0.5)
    assert one.is_late
    assert not made(1.0, 0.5, late=LATE_S / 2).is_late


@pytest.mark.parametrize(
    ("due", "latency", "phase"),
    [
        (9.0, 0.5, "before"),
        (9.9, 0.5, "during"),
        (10.0, 0.1, "during"),
        (19.9, 5.0, "during"),
        (20.0, 0.1, "after"),
        (29.9, 5.0, "after"),
    ],
    ids=["over before it", "under way as it began", "due as it began", "due before it ended", "due after", "last"],
)
def test_a_handshake_belongs_to_one_phase(due: float, latency: float, phase: str) -> None:
    phases = phases_of([made(due, latency)], WINDOW)
    assert {name: len(getattr(phases, name)) for name in ("before", "during", "after")} == {
        name: int(name == phase) for name in ("before", "during", "after")
    }


@given(times=st.lists(st.tuples(st.floats(0, 29.99), st.floats(0, 9))))
def test_no_handshake_of_the_window_is_lost_or_counted_twice(times: list[tuple[float, float]]) -> None:
    handshakes = [made(due, latency) for due, latency in times]
    phases = phases_of(handshakes, WINDOW)
    assert sorted(each.due for each in (*phases.before, *phases.during, *phases.after)) == sorted(
        each.due for each in handshakes
    )


def test_what_was_due_outside_of_the_window_is_of_other_faults() -> None:
    phases = phases_of([made(-0.1, 1), made(30.0, 1)], WINDOW)
    assert phases.before == phases.during == phases.after == ()


def test_errors_are_told_by_how_often_they_were_met() -> None:
    handshakes = [made(0, 1, "rare"), made(0, 1), made(0, 1, "often"), made(0, 1, "often")]
    assert list(errors_of(handshakes).items()) == [("often", 2), ("rare", 1)]


def test_the_longest_failure_is_no_good_handshake() -> None:
    assert longest_failure([made(0, 9), made(0, 1, "a"), made(0, 2, "b")]) == 2.0
    assert longest_failure([made(0, 9)]) is None


def test_recovery_ends_with_the_first_good_one_after_the_return() -> None:
    handshakes = [made(1, 0.5), made(9, 2, "down"), made(9.5, 1.75), made(11, 1)]
    assert recovery(handshakes, back_at=10.0) == 1.25
    assert recovery(handshakes[:2], back_at=10.0) is None
