"""The attempts under way: who is at which node. Pure bookkeeping, so that nothing is counted twice or left behind."""

from __future__ import annotations

from proxy.signing.commands import Attempt, RoutedJob
from proxy.signing.selection import NodeLoad, Seat


class Attempts:
    """Every attempt that has begun and not ended, in the order in which they began."""

    def __init__(self) -> None:
        self._active: dict[Attempt, None] = {}

    def __len__(self) -> int:
        return len(self._active)

    def begin(self, routed: RoutedJob, seat: Seat, now: float, timeout_s: float, *, is_hedge: bool = False) -> Attempt:
        """Put a job at a node, for `timeout_s` or until the job's deadline."""
        attempt = Attempt(routed, seat, now, min(now + timeout_s, routed.deadline), is_hedge=is_hedge)
        if is_hedge:
            routed.hedge = attempt
        else:
            routed.attempt = attempt
        seat.in_flight += 1
        seat.load.in_flight += 1
        self._active[attempt] = None
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Take it away. A second attempt of the job becomes its first."""
        attempt.is_over = True
        routed, seat = attempt.routed, attempt.seat
        if routed.attempt is attempt:
            routed.attempt = routed.hedge
        routed.hedge = None
        seat.in_flight -= 1
        seat.load.in_flight -= 1
        del self._active[attempt]

    def all(self) -> list[Attempt]:
        """Those under way now."""
        return list(self._active)

    def at(self, load: NodeLoad) -> list[Attempt]:
        """Those at one node."""
        return [attempt for attempt in self._active if attempt.seat.load is load]
