from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from proxy.signing.pressure import NO_PRESSURE, SHORT_FROM, SHORT_UNTIL, Pressure, PressureGauge


def test_without_a_word_there_is_none() -> None:
    assert Pressure() == NO_PRESSURE
    assert not NO_PRESSURE.is_short


def test_it_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        Pressure(is_short=True).is_short = False  # type: ignore[misc]


LONGEST_S = 2.0


def wait(gauge: PressureGauge, wait_s: float) -> Pressure:
    """Read it while a job would wait so long."""
    return gauge.read(wait_s, lambda: 200.0)


def test_it_says_how_long_one_waits_and_what_is_made() -> None:
    found = wait(PressureGauge(LONGEST_S), 0.25)
    assert (found.rate_per_s, found.wait_s) == (200.0, 0.25)


def test_short_capacity_stays_short_until_the_wait_is_much_shorter() -> None:
    gauge = PressureGauge(LONGEST_S)
    between_s = LONGEST_S * (SHORT_FROM + SHORT_UNTIL) / 2
    assert not wait(gauge, between_s).is_short
    assert wait(gauge, LONGEST_S * SHORT_FROM * 1.01).is_short
    assert wait(gauge, between_s).is_short
    assert not wait(gauge, LONGEST_S * SHORT_UNTIL * 0.99).is_short
    assert not wait(gauge, between_s).is_short


def test_where_nobody_waits_there_is_no_pressure_and_no_question() -> None:
    gauge = PressureGauge(LONGEST_S)
    assert wait(gauge, LONGEST_S).is_short

    def rate() -> float:
        raise AssertionError("to ask costs time in each handshake")

    assert gauge.read(0.0, rate) is NO_PRESSURE
    assert not wait(gauge, LONGEST_S * (SHORT_FROM + SHORT_UNTIL) / 2).is_short
