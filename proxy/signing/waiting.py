"""Jobs that no node can take right now, bounded, in the order of their deadlines. Pure.

A job is *ready* when any node that holds its key will do: it waits in its key's heap, so that a key whose nodes are
full or down does not stand in the way of the others. A job is *resting* when it was refused lately and lets some
time pass before it is tried again. Jobs leave from the middle when a client goes away: their heap entry stays
behind, is skipped when it comes up, and is swept out once most entries are like it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """What the queue needs of a job; it alone writes `place` (the number of the job's entry, 0 while it is not in)."""

    ski: bytes
    deadline: float
    place: int


W = TypeVar("W", bound=Waiter)
SWEEP_FROM = 64
"""Dead entries below which sweeping is not worth it."""
NEVER = float("inf")


class WaitingJobs(Generic[W]):
    """At most `limit` jobs; `len()` counts them, ready and resting."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ready: dict[bytes, list[tuple[float, int, W]]] = {}
        self._resting: list[tuple[float, int, W]] = []
        self._count = 0
        self._entries = 0
        self._next_place = 0

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether another job must be refused."""
        return self._count >= self._limit

    def add(self, job: W, *, rest_until: float = 0.0) -> None:
        """Let `job` wait; it is ready, or rests until a time if one is given (its deadline ends the rest too)."""
        self._next_place += 1
        job.place = self._next_place
        self._count += 1
        self._entries += 1
        if rest_until:
            heappush(self._resting, (min(rest_until, job.deadline), job.place, job))
        else:
            heappush(self._ready.setdefault(job.ski, []), (job.deadline, job.place, job))

    def remove(self, job: W) -> None:
        """Take a job out, wherever it is; nothing happens when it does not wait."""
        if job.place:
            job.place = 0
            self._count -= 1
            if self._entries - self._count > max(SWEEP_FROM, self._count):
                self._sweep()

    def first_ready(self, is_wanted: Callable[[bytes], bool]) -> W | None:
        """The ready job with the earliest deadline among the keys that are wanted; it stays in."""
        best: tuple[float, int, W] | None = None
        for ski in list(self._ready):
            entry = self._head(ski)
            if entry is not None and (best is None or entry < best) and is_wanted(ski):
                best = entry
        return best[2] if best else None

    def take_expired(self, now: float) -> Iterator[W]:
        """Take out every ready job whose deadline has come (resting ones come with `take_rested`)."""
        for ski in list(self._ready):
            while (entry := self._head(ski)) is not None and entry[0] <= now:
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
        jobs = [entry[2] for entry in sorted(self._resting) if _is_alive(entry)]
        for job in jobs:
            self.remove(job)
        self._entries -= len(self._resting)
        self._resting.clear()
        return jobs

    def take_all(self) -> list[W]:
        """Empty the queue."""
        jobs = [entry[2] for heap in self._ready.values() for entry in sorted(heap) if _is_alive(entry)]
        for job in jobs:
            self.remove(job)
        return jobs + self.take_resting()

    def has_ready(self) -> bool:
        """Whether a job waits for capacity alone."""
        return any(self._head(ski) is not None for ski in list(self._ready))

    def next_time(self) -> float:
        """When the earliest deadline or end of a rest comes; infinity when nothing waits."""
        soonest = min((entry[0] for ski in list(self._ready) if (entry := self._head(ski))), default=NEVER)
        while self._resting and not _is_alive(self._resting[0]):
            heappop(self._resting)
            self._entries -= 1
        return min(soonest, self._resting[0][0]) if self._resting else soonest

    def _head(self, ski: bytes) -> tuple[float, int, W] | None:
        heap = self._ready.get(ski)
        while heap:
            if _is_alive(heap[0]):
                return heap[0]
            heappop(heap)
            self._entries -= 1
        self._ready.pop(ski, None)
        return None

    def _sweep(self) -> None:
        for ski, heap in list(self._ready.items()):
            heap[:] = [entry for entry in heap if _is_alive(entry)]
            heapify(heap)
            if not heap:
                del self._ready[ski]
        self._resting = [entry for entry in self._resting if _is_alive(entry)]
        heapify(self._resting)
        self._entries = self._count


def _is_alive(entry: tuple[float, int, W]) -> bool:
    return entry[2].place == entry[1]
