"""Background tasks with a name and an owner. The only module that creates tasks.

A task that ends with an exception nobody expected is logged once and reported once; it is never lost silently and
never takes the loop down. Whoever wants it restarted restarts it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hsm.shared.logs import get_logger

T = TypeVar("T")

DEFAULT_STOP_TIMEOUT_S = 5.0


class Tasks:
    """Tasks of one owner, stopped together.

    `on_crash` hears the name of each task that crashed. It runs in the event loop and must not raise.
    """

    def __init__(self, on_crash: Callable[[str], None] | None = None) -> None:
        self._on_crash = on_crash
        self._running: set[asyncio.Task[Any]] = set()
        self._is_stopping = False
        self._log = get_logger("tasks")

    def __len__(self) -> int:
        return len(self._running)

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `coro` in the background; its result may be awaited through the task that is returned.

        Raises RuntimeError after `stop`.
        """
        if self._is_stopping:
            coro.close()
            raise RuntimeError(f"task {name!r} was started after its owner stopped")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self, timeout_s: float = DEFAULT_STOP_TIMEOUT_S) -> None:
        """Cancel every task and wait until they ended, `timeout_s` at most; then name in the log who did not.

        May be called again, and from one of the tasks, which then goes on itself.
        """
        self._is_stopping = True
        others = self._running - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if not others:
            return
        _done, stuck = await asyncio.wait(others, timeout=timeout_s)
        for task in stuck:
            self._log.error("task_did_not_stop", task=task.get_name(), timeout_s=timeout_s)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()  # also tells asyncio that it was seen
        if error is None:
            return
        self._log.error("task_crashed", task=task.get_name(), exc_info=error)
        if self._on_crash is not None:
            self._on_crash(task.get_name())
