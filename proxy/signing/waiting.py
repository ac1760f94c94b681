"""Jobs that no node can take right now: bounded, fair between sites, by deadline within one. Pure.

A job is *ready* when any node that holds its key will do: it waits in the heap of its site and key, so that a key
whose nodes are full or down does not stand in the way of the others. A job is *resting* when it was refused lately and
lets some time pass before it is tried again.

Sites take turns by weight (stride scheduling: each taken job moves its site's clock on by 1 / weight, and the site
whose clock is furthest behind is next), so that a flood for one site costs the others nothing. A turn that can't be
used, because no node will take a job of the site, is lost. How long a new job would wait is reckoned from the pace at
which its own site's jobs leave.

Jobs leave from the middle when a client goes away: their heap entry stays behind, is skipped when it comes up, and
is swept out once most entries are like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """What the queue needs of a job; it alone writes `place` (the number of the job's entry, 0 while it is not in)."""

    ski: bytes
    site: str
    deadline: float
    place: int


W = TypeVar("W", bound=Waiter)
SWEEP_FROM = 64
"""Dead entries below which sweeping is not worth it."""
NEVER = float("inf")
PACE_MEMORY_S = 2.0
"""Where nothing has left for so long, the pace before is not believed any more."""
PACE_WEIGHT = 0.1
"""Of one job ..."""
SPAN_S = 0.05
"""... but so much time is judged together: jobs leave in bursts, and few short times are no sign of a quicker pace."""
QUICK_JOBS = 4
GAP_S, GAP_PACES = 0.1, 8.0
"""A time without a job taken that is longer than both is a stop and not the pace, unless the next is as long."""
STOPPED_S = 0.5
"""A line from which nobody has been taken for so long has stopped, unless answers take longer than that."""
LATE_ENTRIES = 8


class _Line(Generic[W]):
    """The ready jobs of one site."""

    __slots__ = (
        "began",
        "clock",
        "count",
        "had_gap",
        "heaps",
        "last_taken",
        "pace_s",
        "patience_s",
        "resting",
        "site",
        "span_jobs",
        "span_s",
        "stride",
        "was_drained",
    )

    def __init__(self, site: str, weight: float) -> None:
        self.site = site
        self.stride = 1.0 / weight
        self.clock = 0.0
        self.count = 0
        self.resting = 0
        """Jobs of the site that rest; the others are counted by `count`."""
        self.heaps: dict[bytes, list[tuple[float, int, W]]] = {}
        self.pace_s = 0.0
        self.patience_s = STOPPED_S
        self.began = -1.0
        """When somebody first asked how long one waits here since the line was empty; negative before."""
        self.span_jobs = 0
        self.span_s = 0.0
        self.last_taken = -NEVER
        self.had_gap = False
        """The time between the last two jobs was too long to be the pace."""
        self.was_drained = True
        """Nobody waited for a time after the last job was taken, so the time since then is no sign of the pace."""

    def learn_pace(self, took_s: float) -> None:
        """A job was taken so long after the one before."""
        if not self.pace_s:
            self.pace_s = took_s
            return
        had_gap = self.had_gap
        self.had_gap = took_s > max(GAP_S, GAP_PACES * self.pace_s)
        if self.had_gap and not had_gap:
            # A line that goes on after a stop has the pace of before.
            return
        self.span_jobs += 1
        self.span_s += took_s
        if self.span_s < SPAN_S:
            return
        mean_s = self.span_s / self.span_jobs
        is_quick = self.span_jobs >= QUICK_JOBS and mean_s < self.pace_s / 4
        # What is much quicker now is believed at once: the door lets in only as many as leave.
        self.pace_s += (mean_s - self.pace_s) * (1.0 if is_quick else 1.0 - (1.0 - PACE_WEIGHT) ** self.span_jobs)
        self.span_jobs, self.span_s = 0, 0.0


class WaitingJobs(Generic[W]):
    """At most `limit` jobs; `len()` counts them, ready and resting."""

    def __init__(self, limit: int, weights: Mapping[str, float] | None = None) -> None:
        self._limit = limit
        self._weights = weights or {}
        self._lines: dict[str, _Line[W]] = {}
        self._waiting_lines: dict[str, _Line[W]] = {}
        self._resting: list[tuple[float, int, W]] = []
        self._count = 0
        self._entries = 0
        self._next_place = 0
        self._clock = 0.0
        self.joined = 0
        """Grows when jobs wait for a key of a site for which none did: until then `ready_keys` gets none more."""
        self._deadlines: list[tuple[float, int, W]] = []
        """The ready jobs once more; who has left stays until its deadline, or until most have left."""

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether another job must take the place of one."""
        return self._count >= self._limit

    def add(self, job: W, *, rest_until: float = 0.0) -> None:
        """Let `job` wait; it is ready, or rests until a time if one is given (its deadline ends the rest too)."""
        self._next_place += 1
        job.place = self._next_place
        self._count += 1
        self._entries += 1
        line = self._line_of(job.site)
        if rest_until:
            line.resting += 1
            heappush(self._resting, (min(rest_until, job.deadline), -job.place, job))
            job.place = -job.place
            return
        if not line.count:
            # Who comes back does not collect what was not used meanwhile.
            line.clock = max(line.clock, self._clock)
            line.was_drained = True
            line.began = -1.0
            self._waiting_lines[line.site] = line
            self.joined += 1
        elif job.ski not in line.heaps:
            self.joined += 1
        line.count += 1
        entry = (job.deadline, job.place, job)
        heappush(line.heaps.setdefault(job.ski, []), entry)
        heappush(self._deadlines, entry)

    def remove(self, job: W) -> None:
        """Take a job out, wherever it is; nothing happens when it does not wait."""
        if not job.place:
            return
        line = self._lines[job.site]
        if job.place < 0:
            line.resting -= 1
        else:
            line.count -= 1
            if not line.count:
                del self._waiting_lines[line.site]
        job.place = 0
        self._count -= 1
        dead = max(self._entries, len(self._deadlines)) - self._count
        if dead > max(SWEEP_FROM, self._count):
            self._sweep()

    def first_ready(self, is_wanted: Callable[[bytes], bool]) -> W | None:
        """Of the site whose turn it is, the ready job with the earliest deadline whose key is wanted; it stays in."""
        lines = self._waiting_lines.values()
        first = min(lines, key=_clock_of, default=None)
        found = self._first_of(first, is_wanted) if first is not None else None
        if found is not None or len(lines) < 2:
            return found
        # Only where the first one's nodes are full is the order of the others worth knowing.
        others = (self._first_of(line, is_wanted) for line in sorted(lines, key=_clock_of) if line is not first)
        return next((job for job in others if job is not None), None)

    def _first_of(self, line: _Line[W], is_wanted: Callable[[bytes], bool]) -> W | None:
        best: tuple[float, int, W] | None = None
        for ski in list(line.heaps):
            entry = self._head(line, ski)
            if entry is not None and (best is None or entry < best) and is_wanted(ski):
                best = entry
        return best[2] if best is not None else None

    def served(self, job: W, now: float) -> None:
        """A node has taken a job that was removed: its site's turn is used, and shows the pace."""
        line = self._lines[job.site]
        # Who was passed over has a clock behind this one: what it could not use does not add up, or it would go before
        # all others later.
        self._clock = max(self._clock, line.clock)
        line.clock = self._clock + line.stride
        took_s = now - line.last_taken
        if took_s >= PACE_MEMORY_S:
            line.pace_s = 0.0
        elif not line.was_drained:
            line.learn_pace(took_s)
        line.last_taken = now
        line.was_drained = False

    def expected_wait_s(self, site: str, now: float) -> float:
        """How long one more job of the site would wait for its turn; 0 where nothing is known."""
        line = self._waiting_lines.get(site)
        return (line.count + 1) * self._pace_of(line, now) if line is not None else 0.0

    def set_patience(self, site: str, seconds: float) -> None:
        """How long nobody may leave the site's line before it counts as stopped; infinity: its pace means nothing."""
        self._line_of(site).patience_s = max(seconds, STOPPED_S)

    def rate_per_s(self, site: str, now: float) -> float:
        """How many jobs of the site leave its line per second; 0 where nothing is known."""
        line = self._waiting_lines.get(site)
        pace_s = self._pace_of(line, now) if line is not None else 0.0
        return 1.0 / pace_s if pace_s else 0.0

    def has_line(self, site: str, ski: bytes) -> bool:
        """Whether jobs of the site wait for capacity to sign with this key."""
        line = self._waiting_lines.get(site)
        return line is not None and self._head(line, ski) is not None

    def sites(self) -> list[str]:
        """The sites whose jobs wait for capacity."""
        return list(self._waiting_lines)

    def newest_of_longest(self, site: str) -> W | None:
        """Who must go so that one of `site` may wait: a late one of the longest line; None: the new one itself."""
        longest = max(self._lines.values(), key=_need_of, default=None)
        if longest is None or _need_of(self._line_of(site)) >= _need_of(longest):
            return None
        if not longest.count:
            return next(job for *_, job in reversed(self._resting) if job.place < 0 and job.site == longest.site)
        # A heap's end holds late ones; to find the very latest would take as long as the queue.
        late = [entry for heap in longest.heaps.values() for entry in heap[-LATE_ENTRIES:] if _is_alive(entry)]
        late = late or [entry for heap in longest.heaps.values() for entry in heap if _is_alive(entry)]
        return max(late, key=_order_of)[2]

    def take_expired(self, now: float) -> Iterator[W]:
        """Take out every ready job whose deadline has come (resting ones come with `take_rested`)."""
        while self._next_deadline() <= now:
            entry = heappop(self._deadlines)
            self.remove(entry[2])
            yield entry[2]

    def take_rested(self, now: float) -> Iterator[W]:
        """Take out every job that has rested enough; it may have reached its deadline."""
        while self._resting and (self._resting[0][0] <= now or not _is_alive(self._resting[0])):
            entry = heappop(self._resting)
            self._entries -= 1
            if _is_alive(entry):
                self.remove(entry[2])
                yield entry[2]

    def take_resting(self) -> list[W]:
        """Take out all resting jobs, because something they wait for may have come earlier."""
        jobs = [entry[2] for entry in sorted(self._resting, key=_order_of) if _is_alive(entry)]
        for job in jobs:
            self.remove(job)
        self._entries -= len(self._resting)
        self._resting.clear()
        return jobs

    def ready_keys(self) -> set[bytes]:
        """The keys of the ready jobs."""
        return {ski for line in self._waiting_lines.values() for ski, heap in line.heaps.items() if heap}

    def take_ready(self, is_wanted: Callable[[bytes], bool]) -> list[W]:
        """Take out the ready jobs of the keys that are wanted."""
        heaps = [
            heap for line in self._waiting_lines.values() for ski, heap in line.heaps.items() if heap and is_wanted(ski)
        ]
        jobs = [entry[2] for heap in heaps for entry in sorted(heap, key=_order_of) if _is_alive(entry)]
        for job in jobs:
            self.remove(job)
        return jobs

    def take_all(self) -> list[W]:
        """Empty the queue."""
        return self.take_ready(lambda _ski: True) + self.take_resting()

    def has_ready(self) -> bool:
        """Whether a job waits for capacity alone."""
        return bool(self._waiting_lines)

    def next_time(self) -> float:
        """When the next deadline or end of a rest is."""
        soonest = self._next_deadline()
        while self._resting and not _is_alive(self._resting[0]):
            heappop(self._resting)
            self._entries -= 1
        return min(soonest, self._resting[0][0]) if self._resting else soonest

    def _pace_of(self, line: _Line[W], now: float) -> float:
        """Seconds from one job that leaves the line to the next."""
        if line.began < 0:
            line.began = now
        if line.patience_s == NEVER:
            return 0.0
        idle_s = now - line.last_taken
        pace_s = line.pace_s if not line.was_drained or idle_s < PACE_MEMORY_S else 0.0
        stopped_s = now - line.began if line.was_drained else idle_s
        if pace_s:
            # A line that has come to a stop is slower than its pace was.
            return max(pace_s, (stopped_s - line.patience_s) / 4)
        return stopped_s if stopped_s > line.patience_s else 0.0

    def _next_deadline(self) -> float:
        deadlines = self._deadlines
        while deadlines and not _is_alive(deadlines[0]):
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def _line_of(self, site: str) -> _Line[W]:
        line = self._lines.get(site)
        if line is None:
            self._lines[site] = line = _Line(site, self._weights.get(site, 1.0))
        return line

    def _head(self, line: _Line[W], ski: bytes) -> tuple[float, int, W] | None:
        heap = line.heaps.get(ski)
        while heap:
            if _is_alive(heap[0]):
                return heap[0]
            heappop(heap)
            self._entries -= 1
        line.heaps.pop(ski, None)
        return None

    def _sweep(self) -> None:
        for line in self._lines.values():
            for ski, heap in list(line.heaps.items()):
                heap[:] = [entry for entry in heap if _is_alive(entry)]
                heapify(heap)
                if not heap:
                    del line.heaps[ski]
        for entries in (self._resting, self._deadlines):
            entries[:] = [entry for entry in entries if _is_alive(entry)]
            heapify(entries)
        self._entries = self._count


def _clock_of(line: _Line[W]) -> float:
    return line.clock


def _need_of(line: _Line[W]) -> float:
    return (line.count + line.resting) * line.stride


def _order_of(entry: tuple[float, int, W]) -> tuple[float, int]:
    return entry[0], abs(entry[1])


def _is_alive(entry: tuple[float, int, W]) -> bool:
    return entry[2].place == entry[1]
