"""Extra work as a share of the work that is wanted. Pure.

A count would be too small in good times and too large in an outage; a share keeps what retries and hedges add to the
nodes' load in proportion, whatever happens.
"""

from __future__ import annotations


class ShareBudget:
    """Every job puts `share` of a token in, every extra attempt takes one out; at most `burst` are kept."""

    __slots__ = ("_burst", "_share", "_tokens")

    def __init__(self, share: float, *, burst: float, initial: float = 0.0) -> None:
        self._share, self._burst = share, burst
        self._tokens = min(initial, burst)

    def earn(self) -> None:
        """A job came."""
        tokens = self._tokens + self._share
        self._tokens = tokens if tokens < self._burst else self._burst

    @property
    def has_one(self) -> bool:
        """Whether `spend` would be granted."""
        return self._tokens >= 1.0

    def spend(self) -> bool:
        """Take one token for an extra attempt; False where there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
