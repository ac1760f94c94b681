"""Whether signatures are scarce, as one value: what the router knows and the door acts on. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pressure:
    """How this worker's demand for signatures stands to what the nodes make for it."""

    is_short: bool = False
    """More handshakes ask for signatures than are made. It must not flap from one handshake to the next."""
    rate_per_s: float = 0.0
    """Signatures per second that can be made for this worker; while it is short, what is being made."""
    wait_s: float = 0.0
    """How long a new job would probably wait for its turn."""


NO_PRESSURE = Pressure()
"""There is enough for everybody. One object for all, because it is asked for in every handshake."""

SHORT_FROM = 0.25
"""Share of the longest wait in the queue from which on capacity is short ..."""
SHORT_UNTIL = 0.1
"""... and below which it is not any more."""


class PressureGauge:
    """Judges how long jobs of one site would wait for nodes that are up, without flapping."""

    def __init__(self, longest_wait_s: float) -> None:
        self._longest_wait_s = longest_wait_s
        self._is_short = False

    def read(self, wait_s: float, rate_per_s: Callable[[], float]) -> Pressure:
        """The pressure now; the rate is asked for only where jobs would wait."""
        if not wait_s:
            self._is_short = False
            return NO_PRESSURE
        self._is_short = wait_s > self._longest_wait_s * (SHORT_UNTIL if self._is_short else SHORT_FROM)
        return Pressure(self._is_short, rate_per_s(), wait_s)
