"""Arrivals: an open loop at a rate, the same for the same seed."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.chaos.schedule import arrivals


@given(rate=st.floats(0.1, 10_000), seed=st.integers(0, 2**32))
def test_arrivals_go_on_in_time_and_are_repeatable(rate: float, seed: int) -> None:
    times = list(islice(arrivals(rate, seed), 50))
    assert all(0 < first <= second for first, second in pairwise(times))
    assert times == list(islice(arrivals(rate, seed), 50))


def test_the_rate_is_that_asked_for() -> None:
    times = list(islice(arrivals(200, 1), 20_000))
    assert times[-1] == pytest.approx(100, rel=0.03)


def test_gaps_are_those_of_clients_that_do_not_know_of_each_other() -> None:
    """Of a Poisson process, whose gaps have a deviation as large as their mean; a metronome would have none."""
    times = [0.0, *islice(arrivals(100, 7), 20_000)]
    gaps = [second - first for first, second in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


def test_other_seeds_give_other_times() -> None:
    assert next(arrivals(1, 1)) != next(arrivals(1, 2))


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_is_above_nothing(rate: float) -> None:
    with pytest.raises(ValueError, match="a rate is above 0"):
        arrivals(rate, 1)
