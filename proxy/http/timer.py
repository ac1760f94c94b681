"""A deadline that moves with every request at the cost of one assignment.

Event-loop timers are dear compared with a request, so a later deadline is only written down; the timer that already
runs finds it there and goes on sleeping. One per connection. Knows nothing of what it times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_NEVER = float("inf")
_CLOCK_GRAIN_S = 0.002
"""Loops of whole milliseconds wake that much too early."""


class MovingDeadline:
    """Calls back once when its deadline passes; the callback may set the next one."""

    __slots__ = ("_callback", "_deadline", "_handle", "_loop", "_wakes_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback: Callable[[], None] | None = callback
        self._deadline = _NEVER
        self._wakes_at = _NEVER
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        """Move the deadline to `delay_s` seconds from now."""
        deadline = self._deadline = self._loop.time() + delay_s
        if deadline < self._wakes_at:
            self._sleep_until(deadline)

    def clear(self) -> None:
        """Have no deadline for now."""
        self._deadline = _NEVER

    def close(self) -> None:
        """Never call back again."""
        self._deadline, self._callback = _NEVER, None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _sleep_until(self, deadline: float) -> None:
        if self._callback is None:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_at = deadline
        self._handle = self._loop.call_at(deadline, self._wake)

    def _wake(self) -> None:
        self._handle, self._wakes_at = None, _NEVER
        if self._deadline == _NEVER or self._callback is None:
            return
        if self._loop.time() + _CLOCK_GRAIN_S < self._deadline:
            self._sleep_until(self._deadline)
            return
        self._deadline = _NEVER
        self._callback()
