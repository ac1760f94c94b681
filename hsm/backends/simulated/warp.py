"""A clock that can run slower than its caller's, and stand still. Pure.

A device that is ten times slower lives through a tenth of a second per second; one that hangs lives through none. With
such a clock slowness and hanging need no rules of their own: whatever was to take 3 ms still takes 3 ms of the
device's time.
"""

from __future__ import annotations

import math


class WarpedClock:
    """Maps the caller's time ("outer") to the device's ("inner"). Both start at `now` and run alike."""

    __slots__ = ("_inner", "_outer", "speed")

    def __init__(self, now: float) -> None:
        self._outer = now
        self._inner = now
        self.speed = 1.0
        """Inner seconds per outer second; 0 while it stands still. Changed through `set_speed` only."""

    def set_speed(self, now: float, speed: float) -> None:
        """From `now` on it runs at `speed`."""
        self._inner, self._outer = self.inner(now), now
        self.speed = speed

    def inner(self, now: float) -> float:
        """The device's time at `now`."""
        return self._inner + (now - self._outer) * self.speed

    def outer(self, inner: float) -> float:
        """When the device will see its time `inner`, if nothing changes; infinite while it stands still."""
        if not self.speed:
            return math.inf
        return self._outer + (inner - self._inner) / self.speed
