"""The words of supervision that compute something."""

from __future__ import annotations

import pytest

from hsm.backends.pkcs11.commands import RefusedPins, Timing


@pytest.mark.parametrize(("call_timeout_s", "interval_s"), [(5.0, 1.0), (2.0, 1.0), (1.0, 0.5), (0.1, 0.05)])
def test_a_worker_is_asked_at_least_twice_in_the_time_of_a_call(call_timeout_s: float, interval_s: float) -> None:
    assert Timing(call_timeout_s, 30.0, 0.2, 10.0).ping_interval_s == interval_s


def test_refused_pins_are_known_until_they_are_forgiven() -> None:
    refused = RefusedPins()
    refused.add(b"one")
    refused.add(b"two")
    assert b"one" in refused
    assert b"three" not in refused
    refused.forgive()
    assert b"one" not in refused
    assert b"two" not in refused
