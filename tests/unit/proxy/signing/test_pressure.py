from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from proxy.signing.pressure import NO_PRESSURE, Pressure


def test_without_a_word_there_is_none() -> None:
    assert Pressure() == NO_PRESSURE
    assert not NO_PRESSURE.is_short


def test_it_is_a_value() -> None:
    with pytest.raises(FrozenInstanceError):
        Pressure(is_short=True).is_short = False  # type: ignore[misc]
