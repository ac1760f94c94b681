"""How long to wait before a link is tried again. Pure.

The wait doubles from `min_s` to `max_s` and each is drawn between half of it and all of it, so that workers that lost
the same node do not come back in step. Only a link that lasted for `max_s` makes the next wait short again: a
node that accepts and drops is not hammered.
"""

from __future__ import annotations

from random import Random


class ReconnectBackoff:
    """The waits of one link, in seconds."""

    def __init__(self, min_s: float, max_s: float, rng: Random) -> None:
        self._min_s, self._max_s, self._rng = min_s, max(min_s, max_s), rng
        self._next_s = min_s
        self._opened_at: float | None = None

    def opened(self, now: float) -> None:
        """The link is usable."""
        self._opened_at = now

    def delay_s(self, now: float) -> float:
        """Return how long to wait from now on; call it once for each link lost or refused."""
        if self._opened_at is not None and now - self._opened_at >= self._max_s:
            self._next_s = self._min_s
        self._opened_at = None
        full_s, self._next_s = self._next_s, min(self._next_s * 2, self._max_s)
        return full_s * self._rng.uniform(0.5, 1.0)
