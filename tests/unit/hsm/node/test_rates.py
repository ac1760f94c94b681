"""Token buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.node.rates import BURST_S, Bucket, Rates


def test_a_pause_allows_a_burst_and_then_the_rate_counts() -> None:
    bucket = Bucket(8.0, 0.0)
    assert [bucket.take(0.0) for _ in range(2)] == [0.0, 0.0]
    assert bucket.take(0.0) == pytest.approx(0.125)
    assert bucket.take(0.125) == 0.0
    assert bucket.take(0.125) > 0.0
    assert [bucket.take(100.0) == 0.0 for _ in range(3)] == [True, True, False]


def test_what_is_given_back_can_be_taken() -> None:
    bucket = Bucket(1.0, 0.0)
    assert bucket.take(0.0) == 0.0
    bucket.give_back()
    bucket.give_back()
    assert bucket.take(0.0) == 0.0
    assert bucket.take(0.0) > 0.0


def test_a_clock_that_stands_still_or_jumps_back_gives_nothing() -> None:
    bucket = Bucket(1.0, 10.0)
    bucket.take(10.0)
    assert bucket.take(5.0) > 0.0
    assert bucket.take(10.5) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Bucket(rate, 0.0)


@given(
    st.floats(min_value=0.1, max_value=10_000),
    st.lists(st.floats(min_value=0, max_value=0.5), min_size=1, max_size=200),
)
def test_no_span_of_time_sees_more_than_its_rate_and_a_burst(rate: float, pauses: list[float]) -> None:
    bucket, now, taken = Bucket(rate, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        wait_s = bucket.take(now)
        taken += wait_s == 0.0
        assert wait_s <= 1 / rate * (1 + 1e-9)
    assert taken <= now * rate + max(1.0, rate * BURST_S) + 1e-6


@given(st.floats(min_value=0.1, max_value=1000))
def test_after_the_wait_it_may_happen(rate: float) -> None:
    bucket = Bucket(rate, 0.0)
    while not (wait_s := bucket.take(0.0)):
        pass
    assert bucket.take(wait_s * (1 + 1e-9) + 1e-9) == 0.0


def test_buckets_are_kept_by_what_they_bound_in_bounded_number() -> None:
    rates = Rates(max_buckets=3)
    first = rates.bucket("a", 1.0, 0.0)
    assert rates.bucket("a", 1.0, 0.0) is first
    assert rates.bucket("a", 2.0, 0.0) is not first, "another rate is another bucket"
    for name in "bcd":
        rates.bucket(name, 1.0, 0.0)
        rates.bucket("b", 1.0, 0.0).take(0.0)
    assert len(rates) == 3
    assert rates.bucket("b", 1.0, 0.0).take(0.0) > 0.0, "the one in use was not forgotten"
