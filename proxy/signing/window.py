"""How many requests a worker may have under way at one node: a window that finds the node's knee. Pure.

A node signs no faster when more than a certain number of requests are under way there: they only wait in it, where
nobody can give them to another node or shed them. So the window grows while it is full and answers come as fast as
they do without a queue, and shrinks when they take `tolerance` times as long, when the node says busy, and when it does
not answer. The window is judged in rounds of answers, because single ones scatter.

What "without a queue" is, the base, is learned for each kind of key: the lowest mean of a round, which rises again only
by rounds in which the node had little from us. Latency alone can't tell a queue from a slow node or a long way, but a
smaller window can: where it gives fewer signatures there was no queue, so the window goes back to what it was and the
base is learned anew; where it gives as many there was one. So a node that is at its limit is looked at with half the
window: now and then, and soon when its answers take too long.
"""

from __future__ import annotations

from math import sqrt

from proxy.signing.latency import Pace

ROUND_SAMPLES = 16
SHRINK_AT_MOST = 0.7
AFTER_BUSY = 0.8
AFTER_TIMEOUT = 0.5
BASE_MEMORY_S = 30.0
LOOK_EVERY_S = 30.0
"""How long a base is believed while the node is at its limit."""
LOOK_SOON_S = 3.0
"""How long it is believed while answers take too long by it."""
LOOK_SAMPLES = 100
"""Answers before and after, when rates are compared: they scatter more than means."""
HELD_RATE = 0.95
"""Half a window that gives this share of the signatures is still too large, perhaps by far."""
LOWER_SAMPLES = 128
"""A lower mean of so many answers is believed by half: the mean of few scatters, and the lowest of many is too low."""
AT_LIMIT = 1.25
"""Latency, in bases, from which a full window shows that the node is at its limit."""


class Window:
    """The window of one node in one worker."""

    __slots__ = (
        "_before",
        "_began",
        "_ceiling",
        "_count",
        "_floor",
        "_initial",
        "_is_starting",
        "_needed",
        "_next_cut",
        "_paces",
        "_peak",
        "_proven_at",
        "_size",
        "_skip",
        "_tolerance",
        "limit",
        "mean_s",
        "measured_at",
        "measured_per_s",
        "strain",
    )

    def __init__(self, *, initial: int, floor: int, ceiling: int, tolerance: float) -> None:
        self._floor, self._ceiling = min(floor, ceiling), ceiling
        self._initial = max(self._floor, min(initial, ceiling))
        self._tolerance = tolerance
        self.measured_per_s = 0.0
        """Answers per second that came while the node was at its limit; 0 where it never was."""
        self.measured_at = 0.0
        self.mean_s = 0.0
        """Mean latency of the last round; 0 before the first."""
        self.strain = 1.0
        """Latency of the last round, in bases: above 1 by as much as answers wait in the node."""
        self._size = float(self._initial)
        self.limit = self._initial
        """Requests that may be under way."""
        self._paces: list[Pace] = []
        self._next_cut = 0.0
        self._is_starting = True
        self._before: tuple[float, float] | None = None
        """Size and rate before the window was made smaller, while it is not clear whether that was right."""
        self._proven_at = float("-inf")
        self._count = self._peak = self._skip = 0
        self._needed = ROUND_SAMPLES
        self._began = 0.0

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows yet how wide it can be: it still doubles whenever it is full."""
        return self._is_starting and self.limit < self._ceiling

    def restart(self, now: float) -> None:
        """The node is back: begin as with a new one, but not wider than it was."""
        self._set(min(self._size, self._initial))
        self._is_starting = True
        self._forget_before()
        self._begin_round(now)

    def answered(self, pace: Pace, took_s: float, under_way: int, now: float) -> bool:
        """An answer came; `under_way` counts it, too. Whether `limit` changed."""
        if self._skip:
            # It was sent with the window before this one.
            self._skip -= 1
            self._began = now
            return False
        if not pace.round_count:
            self._paces.append(pace)
        pace.round_count += 1
        pace.round_total_s += took_s
        self._count += 1
        if under_way > self._peak:
            self._peak = under_way
        if self._count < self._needed or self._count < self._size:
            return False
        return self._end_round(now)

    def refused(self, under_way: int, now: float) -> bool:
        """The node said that it is busy."""
        return self._cut(min(self._size, under_way + 1.0) * AFTER_BUSY, now)

    def missed(self, now: float) -> bool:
        """The node did not answer in time."""
        return self._cut(self._size * AFTER_TIMEOUT, now)

    def _cut(self, size: float, now: float) -> bool:
        """At most once per turnaround: what is under way was sent with the old window."""
        if now < self._next_cut:
            return False
        self._next_cut = now + (self.mean_s or 0.1)
        self._is_starting = False
        self._forget_before()
        return self._set(size)

    def _end_round(self, now: float) -> bool:
        is_full = self._peak >= self.limit
        is_ours = self._peak * 2 > self.limit
        strain, total_s = 0.0, 0.0
        for pace in self._paces:
            mean_s = pace.round_total_s / pace.round_count
            strain += pace.round_count * (mean_s / pace.base_s if pace.base_s else 1.0)
            total_s += pace.round_total_s
        self.strain = strain = strain / self._count
        self.mean_s = total_s / self._count
        rate = self._count / (now - self._began) if now > self._began else 0.0
        before = self._before
        self._forget_before()
        if not is_ours:
            self._proven_at = now
        if before is not None and is_full:
            changed = self._compare(before, rate, now)
        else:
            self._learn_bases(now, is_ours=is_ours)
            changed = self._judge(strain, rate, now, is_full=is_full, is_ours=is_ours)
        self._begin_round(now)
        return changed

    def _judge(self, strain: float, rate: float, now: float, *, is_full: bool, is_ours: bool) -> bool:
        is_at_limit = is_full and (strain >= AT_LIMIT or self._size >= self._ceiling)
        if is_full and strain >= AT_LIMIT:
            self._is_starting = False
            known = now - self.measured_at < BASE_MEMORY_S and self.measured_per_s
            self.measured_per_s = 0.7 * self.measured_per_s + 0.3 * rate if known else rate
            self.measured_at = now
        is_slow = strain > self._tolerance and is_ours
        if is_at_limit and now - self._proven_at > (LOOK_SOON_S if is_slow else LOOK_EVERY_S):
            if self._count >= LOOK_SAMPLES:
                return self._look(rate)
            self._needed = LOOK_SAMPLES
            return False
        if is_slow and self._size <= self._floor:
            self._learn_anew(now)
            self._is_starting = True
        elif is_slow:
            return self._set(self._size * max(SHRINK_AT_MOST, self._tolerance / strain))
        if is_full and strain < (1.0 + self._tolerance) / 2:
            return self._set(self._size * 2 if self._is_starting else self._size + max(1.0, sqrt(self._size) / 2))
        return False

    def _look(self, rate: float) -> bool:
        """Halve it, and see what becomes of the rate."""
        self._before, self._needed, self._skip = (self._size, rate), LOOK_SAMPLES, self.limit
        return self._set(self._size / 2)

    def _compare(self, before: tuple[float, float], rate: float, now: float) -> bool:
        """Half the window was full for a round: what did it give?"""
        size_before, rate_before = before
        if rate < rate_before * (1.0 + self._size / size_before) / 2:
            self._learn_anew(now)
            return self._set(size_before)
        for pace in self._paces:
            mean_s = pace.round_total_s / pace.round_count
            pace.base_s = min(pace.base_s or mean_s, mean_s)
        if rate >= rate_before * HELD_RATE and self._size > self._floor:
            return self._look(rate)
        self._proven_at = now
        return False

    def _learn_anew(self, now: float) -> None:
        """There was no queue in this round."""
        self._proven_at = now
        for pace in self._paces:
            pace.base_s = pace.round_total_s / pace.round_count

    def _forget_before(self) -> None:
        self._before, self._needed, self._skip = None, ROUND_SAMPLES, 0

    def _learn_bases(self, now: float, *, is_ours: bool) -> None:
        drift = min(1.0, (now - self._began) / BASE_MEMORY_S)
        for pace in self._paces:
            mean_s = pace.round_total_s / pace.round_count
            if not pace.base_s:
                pace.base_s = mean_s
            elif mean_s < pace.base_s:
                pace.base_s += (mean_s - pace.base_s) * min(0.5, pace.round_count / LOWER_SAMPLES / 2)
            elif not is_ours:
                pace.base_s += (mean_s - pace.base_s) * drift

    def _begin_round(self, now: float) -> None:
        for pace in self._paces:
            pace.round_count, pace.round_total_s = 0, 0.0
        self._paces.clear()
        self._count = self._peak = 0
        self._began = now

    def _set(self, size: float) -> bool:
        self._size = max(float(self._floor), min(size, float(self._ceiling)))
        before, self.limit = self.limit, int(self._size)
        return before != self.limit
