"""How long to wait before a link is tried again. Pure.

The wait doubles from `min_s` to `max_s` and each is drawn between half of it and all of it, so that workers that lost
the same node do not come back in step. Only a link that lasted for `max_s` makes the next wait short again: a
node that accepts and drops is not hammered. A refused TCP connection costs nobody anything, so waits after one grow
only to half of `max_s`; and the time that an attempt hung counts as waited.
"""

from __future__ import annotations

from random import Random


class ReconnectBackoff:
    """The waits of one link, in seconds."""

    def __init__(self, min_s: float, max_s: float, rng: Random) -> None:
        self._min_s, self.max_s, self._rng = min_s, max(min_s, max_s), rng
        self._next_s = min_s
        self._opened_at: float | None = None

    def opened(self, now: float) -> None:
        """The link is usable."""
        self._opened_at = now

    def delay_s(self, now: float, *, spent_s: float = 0.0, is_refused: bool = False) -> float:
        """Return how long to wait from now on; call it once for each link lost or refused.

        `spent_s` is how long the attempt took that failed; `is_refused` says that nobody listens there.
        """
        if self._opened_at is not None and now - self._opened_at >= self.max_s:
            self._next_s = self._min_s
        self._opened_at = None
        most_s = max(self._min_s, self.max_s / 2) if is_refused else self.max_s
        full_s = min(self._next_s, most_s)
        self._next_s = min(full_s * 2, most_s)
        drawn_s = full_s * self._rng.uniform(0.5, 1.0)
        return max(drawn_s - spent_s, min(drawn_s, self._min_s / 2))
