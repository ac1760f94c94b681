"""Waits between attempts to open a link."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.backoff import ReconnectBackoff


class Longest(Random):
    """Always the longest wait."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_waits_double_up_to_the_cap() -> None:
    backoff = ReconnectBackoff(0.05, 0.5, Longest())
    assert [backoff.delay_s(0.0) for _ in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


@given(seed=st.integers(), minimum=st.floats(0.001, 1), factor=st.floats(1, 100))
def test_each_wait_is_between_half_of_its_step_and_the_step(seed: int, minimum: float, factor: float) -> None:
    backoff = ReconnectBackoff(minimum, minimum * factor, Random(seed))
    step = minimum
    for _ in range(12):
        assert step / 2 <= backoff.delay_s(0.0) <= step
        step = min(step * 2, minimum * factor)


def test_workers_do_not_come_back_in_step() -> None:
    waits = {ReconnectBackoff(1.0, 2.0, Random(seed)).delay_s(0.0) for seed in range(20)}
    assert len(waits) == 20


def test_only_a_link_that_lasted_makes_the_next_wait_short() -> None:
    backoff = ReconnectBackoff(0.1, 1.0, Longest())
    backoff.delay_s(0.0)
    backoff.delay_s(0.0)
    backoff.opened(10.0)
    assert backoff.delay_s(10.5) == 0.4
    backoff.opened(20.0)
    assert backoff.delay_s(21.0) == 0.1
    assert backoff.delay_s(30.0) == 0.2


def test_waits_after_a_refusal_grow_to_half_of_the_longest() -> None:
    backoff = ReconnectBackoff(0.05, 1.0, Longest())
    assert [backoff.delay_s(0.0, is_refused=True) for _ in range(6)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]
    assert backoff.delay_s(0.0) == 0.5
    assert backoff.delay_s(0.0) == 1.0


def test_the_time_that_an_attempt_hung_counts_as_waited() -> None:
    backoff = ReconnectBackoff(0.1, 0.8, Longest())
    assert backoff.delay_s(0.0, spent_s=0.02) == pytest.approx(0.08)
    assert backoff.delay_s(0.0, spent_s=2.0) == 0.05
    assert backoff.delay_s(0.0, spent_s=0.1) == pytest.approx(0.3)


@given(spent=st.floats(0, 10), refused=st.booleans(), seed=st.integers())
def test_there_is_always_some_wait_and_never_too_long_a_one(spent: float, refused: bool, seed: int) -> None:
    backoff = ReconnectBackoff(0.1, 1.0, Random(seed))
    for _ in range(8):
        assert 0.05 <= backoff.delay_s(0.0, spent_s=spent, is_refused=refused) <= (0.5 if refused else 1.0)
