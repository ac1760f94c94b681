"""The third fact of a node's health: how its answers to jobs turn out. Pure.

A run of failures, or too large a share of them within a sliding window, takes a node (or one of its keys) out of
rotation for a while. The while doubles each time it happens again soon, up to a bound, and starts small again once the
node has been good for as long as it was last out, and for as long as the window is.
"""

from __future__ import annotations

from collections import deque

from proxy.base.policy import RoutingPolicy

BUCKET_S = 1.0
CONSECUTIVE = "consecutive"
SHARE = "share"


class Results:
    """Good and failed answers of one node, or of one key at one node."""

    __slots__ = ("_bad", "_buckets", "_end", "_good", "_last_s", "_policy", "_returned_at", "_run", "out_until")

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy
        self._run = 0
        self._good = self._bad = 0
        self._end = 0.0
        self._buckets: deque[tuple[float, int, int]] = deque()
        self._last_s = 0.0
        self._returned_at = 0.0
        self.out_until = 0.0
        """Ejected until this time; 0 while it is not."""

    def good(self, now: float) -> None:
        """A job was signed."""
        self._run = 0
        if now >= self._end:
            self._roll(now)
        self._good += 1

    def failed(self, now: float) -> str:
        """An attempt failed by the node's fault. Why it should be ejected now, "" where it should not."""
        self._run += 1
        if now >= self._end:
            self._roll(now)
        self._bad += 1
        if self.out_until:
            return ""
        if self._run >= self._policy.eject_after:
            return CONSECUTIVE
        good, bad = self.counts(now)
        is_enough = good + bad >= self._policy.eject_volume
        return SHARE if is_enough and bad >= self._policy.eject_error_share * (good + bad) else ""

    def counts(self, now: float) -> tuple[int, int]:
        """Good and failed answers within the sliding window."""
        oldest = now - self._policy.eject_window_s
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
        good = self._good + sum(bucket[1] for bucket in self._buckets)
        bad = self._bad + sum(bucket[2] for bucket in self._buckets)
        return good, bad

    def eject(self, now: float) -> float:
        """Put it out; until when."""
        policy = self._policy
        was_good_s = now - self._returned_at
        again = self._last_s > 0 and was_good_s < max(self._last_s, policy.eject_window_s)
        self._last_s = min(self._last_s * 2, policy.eject_max_s) if again else policy.eject_min_s
        self.out_until = now + self._last_s
        return self.out_until

    def let_in(self, now: float) -> None:
        """Its time is over: what it did before does not count, but the first failure puts it out again."""
        self.out_until = 0.0
        self._returned_at = now
        self.forget()
        self._run = self._policy.eject_after - 1

    def forget(self) -> None:
        """What it did does not count any more."""
        self._run = self._good = self._bad = 0
        self._buckets.clear()

    def _roll(self, now: float) -> None:
        if self._good or self._bad:
            self._buckets.append((self._end, self._good, self._bad))
        self._good = self._bad = 0
        self._end = now + BUCKET_S


class RateMeter:
    """Events per second over the last seconds."""

    __slots__ = ("_began", "_count", "_last")

    SPAN_S = 2.0

    def __init__(self) -> None:
        self._count = 0
        self._began = 0.0
        self._last = 0.0

    def add(self, now: float) -> None:
        """One event."""
        if now - self._began >= self.SPAN_S:
            self._turn(now)
        self._count += 1

    def read(self, now: float) -> float:
        """Events per second now."""
        age_s = now - self._began
        if age_s >= self.SPAN_S:
            self._turn(now)
            age_s = 0.0
        # The running span, filled up by what the last one gave.
        return (self._count + self._last * (self.SPAN_S - age_s)) / self.SPAN_S

    def _turn(self, now: float) -> None:
        age_s = now - self._began
        self._last = self._count / age_s if age_s < 2 * self.SPAN_S else 0.0
        self._count = 0
        self._began = now
