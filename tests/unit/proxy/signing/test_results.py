"""Bad results take a node out, for a time that grows, and what is old does not count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.policy import RoutingPolicy
from proxy.signing.results import BUCKET_S, CONSECUTIVE, SHARE, RateMeter, Results

POLICY = RoutingPolicy(
    eject_after=5, eject_error_share=0.5, eject_window_s=10, eject_volume=20, eject_min_s=1, eject_max_s=8
)


def test_failures_in_a_row_eject() -> None:
    results = Results(POLICY)
    assert [results.failed(1.0) for _ in range(5)] == ["", "", "", "", CONSECUTIVE]


def test_a_good_answer_ends_the_run() -> None:
    results = Results(POLICY)
    for _ in range(3):
        for _ in range(4):
            assert results.failed(1.0) == ""
        results.good(1.0)
    assert results.failed(1.0) == ""


def test_a_share_of_failures_ejects_once_there_are_enough_answers() -> None:
    results, said = Results(POLICY), []
    for number in range(20):
        if number % 2:
            said.append(results.failed(number * 0.1))
        else:
            results.good(number * 0.1)
    assert said == [""] * 9 + [SHARE]


def test_a_smaller_share_is_borne() -> None:
    results = Results(POLICY)
    for number in range(300):
        results.good(number * 0.1)
        if number % 2:
            assert results.failed(number * 0.1) == ""


def test_what_left_the_window_does_not_count() -> None:
    results = Results(POLICY)
    for number in range(16):
        if number % 4:
            results.failed(0.5)
        else:
            results.good(0.5)
    assert results.counts(0.5 + POLICY.eject_window_s - BUCKET_S) == (4, 12)
    for _ in range(20):
        results.good(0.5 + POLICY.eject_window_s + 2 * BUCKET_S)
    assert results.counts(0.5 + POLICY.eject_window_s + 2 * BUCKET_S) == (20, 0)


@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200))
def test_counts_are_those_of_the_window_give_or_take_a_bucket(steps: list[tuple[float, bool]]) -> None:
    results, now, seen = Results(POLICY), 100.0, []
    for pause, is_good in steps:
        now += pause
        if is_good:
            results.good(now)
        else:
            results.failed(now)
        seen.append((now, is_good))
        good, bad = results.counts(now)
        span = POLICY.eject_window_s
        for count, wanted in ((good, True), (bad, False)):
            fewest = sum(1 for at, was in seen if was is wanted and at > now - span)
            most = sum(1 for at, was in seen if was is wanted and at > now - span - BUCKET_S - 1e-6)
            assert fewest <= count <= most


def out_and_in(results: Results, now: float) -> tuple[float, float]:
    """Eject it; how long it is out, and when it is back."""
    until = results.eject(now)
    assert results.out_until == until
    results.let_in(until)
    assert results.out_until == 0
    return until - now, until


def test_each_ejection_soon_after_the_last_is_twice_as_long_up_to_a_bound() -> None:
    results, now, spans = Results(POLICY), 1000.0, []
    for _ in range(6):
        span, now = out_and_in(results, now + 0.5)
        spans.append(span)
    assert spans == pytest.approx([1, 2, 4, 8, 8, 8])


def test_after_good_times_ejections_begin_small_again() -> None:
    results, now = Results(POLICY), 1000.0
    for _ in range(3):
        _, now = out_and_in(results, now + 0.5)
    soon, now = out_and_in(results, now + POLICY.eject_window_s - 0.1)
    assert soon == pytest.approx(POLICY.eject_max_s)
    late, _ = out_and_in(results, now + POLICY.eject_window_s + 0.1)
    assert late == pytest.approx(POLICY.eject_min_s)


def test_while_it_is_out_failures_eject_no_more_and_back_again_it_is_on_probation() -> None:
    results = Results(POLICY)
    until = results.eject(1.0)
    assert [results.failed(1.0) for _ in range(30)] == [""] * 30
    results.let_in(until)
    assert results.counts(until) == (0, 0)
    assert results.failed(until) == CONSECUTIVE
    results.let_in(results.eject(until))
    results.good(until)
    assert [results.failed(until) for _ in range(5)] == [""] * 4 + [CONSECUTIVE]


def test_what_is_forgotten_does_not_count() -> None:
    results = Results(POLICY)
    for _ in range(4):
        results.failed(1.0)
    results.forget()
    assert results.counts(1.0) == (0, 0)
    assert results.failed(1.0) == ""


@pytest.mark.parametrize("per_s", [5.0, 100.0, 5000.0])
def test_a_steady_rate_is_read_within_a_tenth(per_s: float) -> None:
    meter, now = RateMeter(), 500.0
    read = []
    while now < 500.0 + 5 * RateMeter.SPAN_S:
        meter.add(now)
        now += 1 / per_s
        if now > 500.0 + 2 * RateMeter.SPAN_S:
            read.append(meter.read(now))
    assert min(read) >= per_s * 0.9 - 0.5
    assert max(read) <= per_s * 1.1 + 0.5


def test_a_rate_falls_to_nothing_when_nothing_happens() -> None:
    meter = RateMeter()
    assert meter.read(500.0) == 0
    for number in range(400):
        meter.add(500.0 + number / 100)
    assert 0 < meter.read(504.0 + RateMeter.SPAN_S / 2) < 100
    assert meter.read(504.0 + 2 * RateMeter.SPAN_S) <= 50
    assert meter.read(504.0 + 5 * RateMeter.SPAN_S) == 0
