"""Whether signatures are scarce, as one value: what the router knows and the door acts on. Pure."""

from __future__ import annotations

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
