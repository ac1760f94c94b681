"""Deadlines of many connections that all wait equally long, with one timer for all of them.

Because every span is the same, the order of starting is the order of expiring: starting and stopping cost one
dictionary operation each and the event loop never sees a timer per connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls `on_expired(item)` for each item that is not stopped within `span_s` seconds of its start.

    `on_expired` may start and stop items. Times are those of `loop`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, span_s: float, on_expired: Callable[[T], None]) -> None:
        self._loop = loop
        self._span_s = span_s
        self._on_expired = on_expired
        self._deadline_of: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadline_of)

    def start(self, item: T) -> float:
        """Start, or start anew, the item's span; the time at which it ends."""
        deadline = self._loop.time() + self._span_s
        self._deadline_of.pop(item, None)  # so that it goes to the end
        self._deadline_of[item] = deadline
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._sweep)
        return deadline

    def stop(self, item: T) -> None:
        """Forget the item; nothing happens where it is not known."""
        # The timer stays: it finds the next deadline when it fires, or nothing to do.
        self._deadline_of.pop(item, None)

    def close(self) -> None:
        """Forget every item and stop the timer."""
        self._deadline_of.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        # uvloop counts time in milliseconds and may call a timer a fraction early.
        now = self._loop.time() + 0.001
        expired = []
        for item, deadline in self._deadline_of.items():
            if deadline > now:
                break
            expired.append(item)
        for item in expired:
            del self._deadline_of[item]
        if self._deadline_of:
            self._timer = self._loop.call_at(next(iter(self._deadline_of.values())), self._sweep)
        for item in expired:
            self._on_expired(item)
