"""From samples of the proxy's counters to who was asked, until when and from when on again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.chaos.figures import Window
from proxy.chaos.shares import (
    Sample,
    jobs_and_extra,
    peak_waiting,
    reasons_between,
    share_between,
    share_during,
    time_to_eject,
    time_to_full_share,
)

WINDOW = Window(begin=0.0, fault=4.0, end=9.0, close=20.0)


def play(rate_of_a: Callable[[float], float], until: float = 20.0) -> list[Sample]:
    """Samples every 0.1 s; b and c are asked 60 times per second each, a as often as is said."""
    samples, begun = [], {"a": 0.0, "b": 0.0, "c": 0.0}
    for step in range(round(until * 10) + 1):
        at = step / 10
        samples.append(Sample(at, dict(begun), sum(begun.values()), sum(begun.values()), 0.0))
        begun = {"a": begun["a"] + rate_of_a(at) / 10, "b": begun["b"] + 6, "c": begun["c"] + 6}
    return samples


def test_a_node_that_gets_nothing_from_some_time_on_is_out_then() -> None:
    samples = play(lambda at: 0 if 4.7 <= at < 12 else 60)
    assert time_to_eject(samples, "a", WINDOW) == pytest.approx(0.7, abs=0.11)
    assert time_to_eject(samples, "b", WINDOW) is None


def test_a_node_that_comes_back_while_the_fault_lasts_is_not_out_before() -> None:
    samples = play(lambda at: 60 if at < 4.5 or 6 <= at < 6.5 else 0)
    assert time_to_eject(samples, "a", WINDOW) == pytest.approx(2.5, abs=0.11)


def test_a_trial_now_and_then_does_not_mean_that_it_is_in() -> None:
    samples = play(lambda at: 60 if at < 4.5 else 1)
    assert time_to_eject(samples, "a", WINDOW) == pytest.approx(0.5, abs=0.11)


def test_what_ends_just_before_the_fault_does_says_nothing() -> None:
    assert time_to_eject(play(lambda at: 60 if at < 8.5 else 0), "a", WINDOW) is None


def test_a_node_that_is_left_at_once_is_out_at_once() -> None:
    assert time_to_eject(play(lambda at: 60 if at < 4 else 0), "a", WINDOW) == 0.0


def test_a_full_share_is_most_of_the_fair_one_for_a_second() -> None:
    samples = play(lambda at: 60 if at < 4 else 0 if at < 11 else 30 if at < 13 else 60)
    assert time_to_full_share(samples, "a", WINDOW) == pytest.approx(3.5, abs=0.3)
    assert time_to_full_share(samples, "b", WINDOW) == 0.0


def test_no_full_share_before_it_lasted() -> None:
    samples = play(lambda at: 60 if at < 4 or at > 19.5 else 0)
    assert time_to_full_share(samples, "a", WINDOW) is None
    assert time_to_full_share([], "a", WINDOW) is None


def test_the_share_of_the_second_half_is_that_of_a_node_that_is_asked_less() -> None:
    assert share_during(play(lambda at: 60 if at < 5 else 6), "a", WINDOW) == pytest.approx(6 / 126, abs=0.005)
    assert share_during([], "a", WINDOW) is None


def test_nothing_begun_has_no_shares() -> None:
    idle = Sample(0, {"a": 5}, 5, 5, 0)
    assert share_between(idle, idle, "a") is None


def test_attempts_beyond_one_per_job_are_extra() -> None:
    samples = [Sample(at, {}, attempts, jobs, 0) for at, attempts, jobs in ((3, 50, 50), (5, 100, 100), (19, 310, 300))]
    assert jobs_and_extra(samples, WINDOW) == (200, 10)
    assert jobs_and_extra([], WINDOW) == (0, 0)


def test_reasons_are_those_of_the_window_and_of_the_site() -> None:
    counts = {("a.org", "shed"): 2.0, ("b.org", "deadline"): 5.0}
    later = {("a.org", "shed"): 3.0, ("a.org", "no_node"): 4.0, ("b.org", "deadline"): 5.0, ("b.org", "shed"): 1.0}
    samples = [Sample(1, {}, 0, 0, 0, counts), Sample(19, {}, 0, 0, 0, later), Sample(99, {}, 0, 0, 0, {})]
    assert reasons_between(samples, WINDOW) == {"no_node": 4, "shed": 2}
    assert reasons_between(samples, WINDOW, "b.org") == {"shed": 1}
    assert reasons_between([], WINDOW) == {}


def test_the_peak_is_that_of_the_fault_and_its_end() -> None:
    samples = [Sample(at, {}, 0, 0, waiting) for at, waiting in ((1, 99), (5, 3), (12, 7))]
    assert peak_waiting(samples, WINDOW) == 7
    assert peak_waiting([], WINDOW) == 0
