"""Bounds how often something happens: token buckets, as many as there are keys and clients with a limit.

Pure: times are seconds on one clock of the caller's choosing. Memory is bounded: of too many buckets, the one that was
not asked for the longest is forgotten, which by then is as good as a new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

BURST_S = 0.25
"""How much of a second may happen at once, after a pause: clients come in bursts."""
MAX_BUCKETS = 4096


class Bucket:
    """At most `rate` a second in the long run, and a burst of a quarter second's worth (one at least)."""

    __slots__ = ("_at", "_burst", "_level", "rate")

    def __init__(self, rate: float, now: float) -> None:
        if not rate > 0:
            raise ValueError("a rate must be more than 0")
        self.rate = rate
        self._burst = max(1.0, rate * BURST_S)
        self._level = self._burst
        self._at = now

    def take(self, now: float) -> float:
        """0.0 where it may happen now; else in how many seconds it may, and nothing is taken."""
        if now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self.rate)
            self._at = now
        if self._level < 1.0:
            return (1.0 - self._level) / self.rate
        self._level -= 1.0
        return 0.0

    def give_back(self) -> None:
        """What was taken did not happen."""
        self._level = min(self._burst, self._level + 1.0)


class Rates:
    """Buckets by what they bound."""

    def __init__(self, max_buckets: int = MAX_BUCKETS) -> None:
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, of: Hashable, rate: float, now: float) -> Bucket:
        """The bucket of `of`; a new one where there is none, or where its rate is another now."""
        bucket = self._buckets.get(of)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[of] = Bucket(rate, now)
        self._buckets.move_to_end(of)
        if len(self._buckets) > self._max_buckets:
            self._buckets.popitem(last=False)
        return bucket
