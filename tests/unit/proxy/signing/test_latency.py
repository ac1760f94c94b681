"""How long attempts take: averages that see peaks, quantiles of recent samples, and what is usual for a kind."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.latency import (
    FALL,
    FEWEST_SAMPLES,
    GENERATION_S,
    GENERATION_SAMPLES,
    REFRESH_S,
    Digest,
    Pace,
    PeakAverage,
    Usual,
)

samples_s = st.floats(2e-5, 1000.0)


@given(st.lists(samples_s, min_size=1, max_size=60), st.lists(st.floats(0.01, 0.999), min_size=1, max_size=4))
def test_quantiles_are_those_of_the_sorted_samples_within_five_percent(taken: list[float], shares: list[float]) -> None:
    digest, shares = Digest(), sorted(shares)
    for sample in taken:
        digest.add(sample, 1.0)
    exact = sorted(taken)
    for share, found in zip(shares, digest.quantiles(shares), strict=True):
        assert found == pytest.approx(exact[ceil(share * len(exact)) - 1], rel=0.05)


def test_samples_out_of_range_are_taken_as_the_nearest() -> None:
    digest = Digest()
    for sample in (0.0, 1e-9, 1e9):
        digest.add(sample, 0.0)
    smallest, _, largest = digest.quantiles((0.1, 0.5, 0.9))
    assert smallest < 2e-5
    assert largest > 20 * 60


def test_without_samples_quantiles_are_zero() -> None:
    assert Digest().quantiles((0.5, 0.9)) == [0.0, 0.0]


def test_old_samples_go_out_after_two_generations() -> None:
    digest, now = Digest(), 100.0
    for sample in (1.0, 0.1, 0.1):
        for number in range(GENERATION_SAMPLES):
            digest.add(sample, now + number * 0.001)
        now += GENERATION_S + 1
    assert digest.quantiles((0.99,))[0] == pytest.approx(0.1, rel=0.05)


def test_a_kind_that_is_rarely_used_keeps_what_it_has() -> None:
    digest = Digest()
    for number in range(GENERATION_SAMPLES):
        digest.add(0.1, number * 3600.0)
    assert digest.count == GENERATION_SAMPLES


def test_a_peak_is_seen_sooner_than_it_is_forgotten() -> None:
    average = PeakAverage(2.0)
    average.add(0.01, 10.0)
    assert average.value == 0.01
    average.add(1.0, 10.0)
    risen = average.value - 0.01
    average.add(0.01, 10.0)
    fallen = 0.01 + risen - average.value
    assert risen > 4 * fallen > 0


@given(st.lists(st.tuples(st.floats(1e-4, 10), st.floats(0, 5)), min_size=1))
def test_an_average_is_within_its_samples(steps: list[tuple[float, float]]) -> None:
    average, now = PeakAverage(2.0), 0.0
    for sample, pause in steps:
        now += pause
        average.add(sample, now)
        assert 0 <= average.read(now) == average.value <= max(each for each, _ in steps) * 1.000001
        assert average.value >= min(each for each, _ in steps) * 0.999999


def test_a_slow_answer_is_forgotten_by_time_and_by_many_quick_ones() -> None:
    by_time, by_number = PeakAverage(2.0), PeakAverage(2.0)
    for average in (by_time, by_number):
        average.add(1.0, 0.0)
    by_time.add(0.01, 20.0)
    for _ in range(int(5 / FALL)):
        by_number.add(0.01, 0.0)
    assert by_time.value < 0.02
    assert by_number.value < 0.02
    assert PeakAverage(2.0).read(5.0) == 0


def test_a_node_that_is_not_asked_is_tried_again_some_day() -> None:
    average = PeakAverage(2.0)
    average.add(10.0, 0.0)
    assert average.read(0.05) == 10.0
    read = [average.read(float(at)) for at in range(1, 30)]
    assert read == sorted(read, reverse=True)
    assert read[-1] < 0.001


def fed(usual: Usual, latency_s: float, count: int = 100) -> Pace:
    pace, rng = Pace(usual, 2.0), Random(1)
    for _ in range(count):
        pace.add(latency_s * rng.uniform(0.8, 1.2), 0.0)
    return pace


def test_one_slow_node_of_two_or_three_does_not_change_what_is_usual() -> None:
    for others in (1, 2):
        usual = Usual(0.95)
        quick = [fed(usual, 0.01) for _ in range(others)]
        slow = fed(usual, 1.0)
        usual.refresh(1.0)
        assert usual.median_s == pytest.approx(0.01, rel=0.1)
        assert usual.median_s < usual.slow_s <= usual.slowest_s < 0.02
        assert slow.slowest_s > 50 * quick[0].slowest_s > 0


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99, 0.999])
def test_slow_is_what_the_quantile_says(quantile: float) -> None:
    usual = Usual(quantile)
    pace = Pace(usual, 2.0)
    for number in range(1, 2001):
        pace.add(number / 1000, 0.0)
    usual.refresh(1.0)
    assert usual.slow_s == pytest.approx(2 * quantile, rel=0.05)
    assert usual.slowest_s == pace.slowest_s == pytest.approx(2 * 0.99, rel=0.05)


def test_few_samples_are_not_believed() -> None:
    usual = Usual(0.95)
    pace = fed(usual, 0.01, FEWEST_SAMPLES - 1)
    usual.refresh(1.0)
    assert (usual.median_s, pace.slowest_s) == (0.0, 0.0)
    pace.add(0.01, 1.0)
    usual.refresh(1.0 + REFRESH_S / 2)
    assert usual.median_s == 0.0, "it is worked out again only now and then"
    usual.refresh(1.0 + REFRESH_S)
    assert usual.median_s > 0


def test_of_an_unknown_node_the_usual_is_expected() -> None:
    usual = Usual(0.95)
    unknown = Pace(usual, 2.0)
    assert unknown.expected_s(0.0) > 0
    known = fed(usual, 0.01)
    usual.refresh(1.0)
    assert unknown.expected_s(1.0) == usual.median_s
    assert known.expected_s(0.0) == known.average.value


def test_time_forgives_a_node_that_was_slow_but_makes_none_quick() -> None:
    usual = Usual(0.95)
    slow, quick, like_all = Pace(usual, 2.0), Pace(usual, 2.0), Pace(usual, 2.0)
    usual.median_s = 0.01
    for pace, latency_s in ((slow, 1.0), (quick, 0.005), (like_all, 0.012)):
        pace.average.add(latency_s, 0.0)
    expected = [slow.expected_s(float(at)) for at in range(0, 40, 4)]
    assert expected == sorted(expected, reverse=True)
    assert expected[-1] == like_all.expected_s(100.0) == usual.median_s
    assert quick.expected_s(0.0) == quick.expected_s(100.0) == 0.005
