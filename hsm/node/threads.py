"""Signing threads: blocking work goes in, results come back to the event loop in batches.

It knows nothing of requests, deadlines or bounds; the caller hands in no more than it wants to be under way. Threads
are daemons on purpose: one that hangs inside a token must not keep the process from ending.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
Work = Callable[[T], None]


class SigningThreads(Generic[T]):
    """`count` threads that call `work(item)` for each item given; `work` keeps its result in the item, never raises.

    `wake` is called in a thread when finished items wait and the loop does not know; it must schedule `collect` in the
    event loop and be safe to call from threads (`loop.call_soon_threadsafe`). One wake-up serves all items that are
    finished until the loop comes round. While there is more to do, finished items may wait up to `patience_s` for
    others, so that one turn of the loop and one write to a client serve several; the last one always wakes the loop.
    They wait only where another that takes as long as the last would be done by then: nobody waits for a slow key.
    """

    def __init__(self, count: int, work: Work[T], wake: Callable[[], None], *, patience_s: float = 0.0) -> None:
        self._work = work
        self._wake = wake
        self._patience_s = patience_s
        self._since = 0.0
        self._todo: SimpleQueue[T | None] = SimpleQueue()
        self._done: deque[T] = deque()
        self._lock = threading.Lock()
        self._is_woken = False
        self._threads = [
            threading.Thread(target=self._run, name=f"signing-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def give(self, item: T) -> None:
        """Has an item worked on by the next free thread."""
        self._todo.put(item)

    def collect(self) -> list[T]:
        """The items finished since the last call, in the event loop."""
        with self._lock:
            self._is_woken = False
            items = list(self._done)
            self._done.clear()
        return items

    def stop(self, timeout_s: float) -> bool:
        """Ends the threads once they are done with what they were given; False where one still hangs after that."""
        self._patience_s = 0.0
        for _ in self._threads:
            self._todo.put(None)
        share_s = timeout_s / max(1, len(self._threads))
        for thread in self._threads:
            thread.join(share_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (item := self._todo.get()) is not None:
            began = time.monotonic()
            self._work(item)
            with self._lock:
                must_wake = self._must_wake(item, began)
            if must_wake:
                self._wake()

    def _must_wake(self, item: T, began: float) -> bool:
        """Adds a finished item; whether it is time to tell the loop."""
        now = time.monotonic()
        if not self._done:
            self._since = now
        self._done.append(item)
        next_done = now + (now - began)
        if self._is_woken or (not self._todo.empty() and next_done - self._since < self._patience_s):
            return False
        self._is_woken = True
        return True
