"""How long attempts take: at one node with one kind of key, and what is usual for the kind. Pure.

Three views of the same samples. A *peak-sensitive average* for the choice of a node: it rises fast with slow answers
and comes down slowly (after the "peak EWMA" of Twitter's Finagle, where one slow answer counts in full). A *digest* of
recent ones for quantiles: buckets that grow by 9 %, in two generations, so that what is old goes out and a kind that is
rarely used keeps what it has. And the *usual* quantiles of a kind: the lower median over its nodes, so that one slow
node of two or three changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log2

STEPS_PER_DOUBLING = 8
SMALLEST_S = 1e-5
BUCKETS = 8 * 27
"""From 10 us to more than 20 minutes."""
GENERATION_S = 5.0
GENERATION_SAMPLES = 64
"""A generation is over when it has both this age and this many samples."""
FEWEST_SAMPLES = 20
"""Below this a node's quantiles are not believed."""
REFRESH_S = 0.25
RISE = 0.3
"""Share of the way to a slower answer that the average goes at once; one alone may be chance."""
FALL = 0.05
"""The most of the way to a quicker one."""


class PeakAverage:
    """A moving average that follows a peak soon, and forgets it with time constant `memory_s` or after many answers."""

    __slots__ = ("_at", "_memory_s", "value")

    def __init__(self, memory_s: float) -> None:
        self._memory_s = memory_s
        self._at = 0.0
        self.value = 0.0
        """As of the last sample, in seconds; 0 before the first."""

    def add(self, sample_s: float, now: float) -> None:
        """Take a sample in."""
        if sample_s >= self.value:
            self.value += (sample_s - self.value) * RISE if self.value else sample_s
        else:
            kept = exp((self._at - now) / self._memory_s) if now > self._at else 1.0
            # Twenty answers count as much as the memory itself, however soon they come.
            kept = min(kept, 1 - FALL)
            self.value = self.value * kept + sample_s * (1.0 - kept)
        self._at = now

    def read(self, now: float) -> float:
        """The average now; without samples it fades, so that a node that was slow is tried again some day."""
        idle_s = now - self._at
        return self.value if idle_s < 0.1 else self.value * exp(-idle_s / self._memory_s)


class Digest:
    """Recent samples, for quantiles with an error of at most 5 %."""

    __slots__ = ("_began", "_new", "_new_count", "_old", "_old_count")

    def __init__(self) -> None:
        self._new = [0] * BUCKETS
        self._old = [0] * BUCKETS
        self._new_count = self._old_count = 0
        self._began = 0.0

    @property
    def count(self) -> int:
        """Samples that the quantiles are made of."""
        return self._new_count + self._old_count

    def add(self, sample_s: float, now: float) -> None:
        """Take a sample in."""
        if self._new_count >= GENERATION_SAMPLES and now - self._began > GENERATION_S:
            self._old, self._old_count = self._new, self._new_count
            self._new, self._new_count = [0] * BUCKETS, 0
        if not self._new_count:
            self._began = now
        index = int(STEPS_PER_DOUBLING * log2(sample_s / SMALLEST_S)) if sample_s > SMALLEST_S else 0
        self._new[min(index, BUCKETS - 1)] += 1
        self._new_count += 1

    def quantiles(self, wanted: Sequence[float]) -> list[float]:
        """The values below which these shares (ascending) of the samples are, in seconds; 0 without samples."""
        total = self.count
        found: list[float] = []
        if not total:
            return [0.0] * len(wanted)
        ranks = [share * total for share in wanted]
        seen = 0
        for index, (new, old) in enumerate(zip(self._new, self._old, strict=True)):
            if not (new or old):
                continue
            seen += new + old
            while len(found) < len(ranks) and seen >= ranks[len(found)]:
                found.append(SMALLEST_S * 2 ** ((index + 0.5) / STEPS_PER_DOUBLING))
            if len(found) == len(ranks):
                break
        return found


class Pace:
    """How fast one node is with one kind of key, as this worker sees it."""

    __slots__ = ("average", "base_s", "digest", "round_count", "round_total_s", "slowest_s", "usual")

    def __init__(self, usual: Usual, memory_s: float) -> None:
        self.usual = usual
        self.average = PeakAverage(memory_s)
        self.digest = Digest()
        self.slowest_s = 0.0
        """99th percentile here, 0 where too little is known."""
        self.base_s = 0.0
        """Mean of answers that met no queue of ours; the window's, 0 before its first round."""
        self.round_count = 0
        self.round_total_s = 0.0
        usual.paces.append(self)

    def add(self, sample_s: float, now: float) -> None:
        """An attempt took so long, or at least so long."""
        self.average.add(sample_s, now)
        self.digest.add(sample_s, now)

    def expected_s(self, now: float) -> float:
        """What an attempt is expected to take, on the safe side; the usual where nothing is known of this node.

        With time a node is forgiven that it was slower than usual, but does not seem quicker than it was.
        """
        expected_s, usual_s = self.average.read(now), self.usual.median_s
        if expected_s < usual_s:
            return min(self.average.value or usual_s, usual_s)
        return expected_s or 1.0


class Usual:
    """What is usual for one kind of key, over all nodes. Zeros mean that too little is known."""

    __slots__ = ("_quantile", "_refresh_at", "median_s", "paces", "slow_s", "slowest_s")

    def __init__(self, quantile: float) -> None:
        self._quantile = quantile
        self._refresh_at = 0.0
        self.paces: list[Pace] = []
        self.median_s = 0.0
        self.slow_s = 0.0
        """The quantile given: what takes longer is worth a second attempt."""
        self.slowest_s = 0.0
        """99th percentile."""

    def refresh(self, now: float) -> None:
        """Work the quantiles out again, four times per second at most."""
        if now < self._refresh_at:
            return
        self._refresh_at = now + REFRESH_S
        known: list[list[float]] = []
        for pace in self.paces:
            if pace.digest.count >= FEWEST_SAMPLES:
                slow, slowest = self._quantile, 0.99
                found = pace.digest.quantiles((0.5, min(slow, slowest), max(slow, slowest)))
                if slow > slowest:
                    found[1], found[2] = found[2], found[1]
                pace.slowest_s = found[2]
                known.append(found)
        if known:
            middle = (len(known) - 1) // 2
            self.median_s, self.slow_s, self.slowest_s = (sorted(column)[middle] for column in zip(*known, strict=True))
