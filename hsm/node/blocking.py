"""Calls into the backend that block, each in a thread of its own, so that the event loop goes on.

Not `asyncio.to_thread`: its threads are waited for when the loop and the process end, and a call that hangs in a token
or on a disk would keep the node from stopping. It bounds nothing; callers let few calls through at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")

POLL_S = 0.01


class BlockingCalls:
    """The calls of one node. Used in its event loop."""

    def __init__(self) -> None:
        self._unfinished: set[threading.Thread] = set()

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, from a daemon thread. Cancelled, it leaves the thread to itself."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: Exception | None) -> None:
            self._unfinished.discard(thread)
            if outcome.done():
                return  # cancelled
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(cast("T", result))

        def call() -> None:
            result, error = None, None
            try:
                result = work()
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(tell, result, error)

        thread = threading.Thread(target=call, name="blocking-call", daemon=True)
        self._unfinished.add(thread)
        thread.start()
        return await outcome

    async def finished(self, timeout_s: float) -> bool:
        """Whether every call came back within `timeout_s`, also those that nobody waits for."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._unfinished:
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True
