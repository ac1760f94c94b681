"""When a second node is asked beside a slow one, and how often that may be. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from proxy.signing.budget import ShareBudget
from proxy.signing.commands import Attempt
from proxy.signing.selection import Seat
from proxy.signing.waiting import NEVER

HEDGE_BURST = 20.0
"""Second attempts that may be made at once, saved up in good times."""

AT_EASE = 1.25
"""Latency, in bases, up to which a node is not busy enough for a second attempt to hold up others there."""


class Hedges:
    """Attempts by the time from which on they are slow, and the budget for what may be done about it."""

    def __init__(self, share: float) -> None:
        self._budget = ShareBudget(share, burst=HEDGE_BURST)
        self._is_on = share > 0
        self._heap: list[tuple[float, int, Attempt]] = []
        self._noted = 0

    def earn(self) -> None:
        """A job came."""
        self._budget.earn()

    def take(self, attempt: Attempt, choose: Callable[[], Seat | None], now: float) -> Seat | None:
        """A second node for a slow attempt, if the budget has one and nothing is against the node.

        Where jobs queue in that node, it is asked only when the first node has answered nobody since: then it is not
        chance that is slow.
        """
        seat = choose() if self._budget.has_one else None
        if seat is None or seat.rank(now) != 1:
            return None
        if seat.load.window.strain > AT_EASE and attempt.seat.load.last_good > attempt.started:
            return None
        self._budget.spend()
        return seat

    def note(self, attempt: Attempt, slow_s: float, now: float) -> None:
        """An attempt has begun; after `slow_s` (0: nobody knows yet) it is slow."""
        if self._is_on and slow_s and now + slow_s < attempt.deadline:
            self._noted += 1
            heappush(self._heap, (now + slow_s, self._noted, attempt))

    def due(self, now: float) -> Iterator[Attempt]:
        """Attempts that have become slow, each once."""
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].is_over):
            attempt = heappop(self._heap)[2]
            if not attempt.is_over:
                yield attempt

    def next_time(self) -> float:
        """When the next one becomes slow; infinity when there is none."""
        heap = self._heap
        while heap and heap[0][2].is_over:
            heappop(heap)
        return heap[0][0] if heap else NEVER
