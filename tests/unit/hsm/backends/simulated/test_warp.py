"""A clock that runs slower than its caller's, and stands still."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.simulated.warp import WarpedClock


def test_it_runs_with_its_callers_at_first() -> None:
    clock = WarpedClock(100.0)
    assert clock.inner(103.5) == 103.5
    assert clock.outer(103.5) == 103.5


def test_slow_time_goes_on_where_it_was() -> None:
    clock = WarpedClock(0.0)
    clock.set_speed(10.0, 0.5)
    assert clock.inner(14.0) == 12.0
    assert clock.outer(12.0) == 14.0
    clock.set_speed(14.0, 1.0)
    assert clock.inner(15.0) == 13.0


def test_it_stands_still() -> None:
    clock = WarpedClock(0.0)
    clock.set_speed(5.0, 0.0)
    assert clock.inner(1000.0) == 5.0
    assert clock.outer(5.1) == math.inf
    clock.set_speed(1000.0, 1.0)
    assert clock.inner(1001.0) == 6.0
    assert clock.outer(6.0) == 1001.0


@given(
    st.lists(st.tuples(st.floats(0, 100), st.sampled_from((0.0, 0.001, 0.1, 1.0))), max_size=20), st.floats(0.001, 10)
)
def test_it_never_goes_back_and_finds_back(steps: list[tuple[float, float]], later_s: float) -> None:
    clock, now, inner = WarpedClock(0.0), 0.0, 0.0
    for step_s, speed in steps:
        now += step_s
        clock.set_speed(now, speed)
        assert clock.inner(now) >= inner - 1e-9
        inner = clock.inner(now)
    if clock.speed:
        assert clock.inner(clock.outer(inner + later_s)) == pytest.approx(inner + later_s)
