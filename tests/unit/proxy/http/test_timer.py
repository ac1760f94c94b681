"""The moving deadline: moved without timers, fired once."""

from __future__ import annotations

import asyncio

from proxy.http.timer import MovingDeadline
from tests.support.http_play import until


async def test_deadline_fires_once_and_may_be_set_again() -> None:
    fired: list[float] = []
    loop = asyncio.get_running_loop()
    deadline = MovingDeadline(loop, lambda: fired.append(loop.time()))
    began = loop.time()
    deadline.set(0.03)
    await until(lambda: len(fired) == 1)
    assert 0.02 < fired[0] - began < 1
    deadline.set(0.01)
    await until(lambda: len(fired) == 2)
    deadline.close()


async def test_later_and_earlier_deadlines_replace_each_other() -> None:
    fired: list[float] = []
    loop = asyncio.get_running_loop()
    deadline = MovingDeadline(loop, lambda: fired.append(loop.time()))
    began = loop.time()
    deadline.set(0.02)
    deadline.set(0.15)
    await until(lambda: len(fired) == 1)
    assert fired[0] - began > 0.14
    deadline.set(60)
    deadline.set(0.02)
    await until(lambda: len(fired) == 2)
    deadline.close()


async def test_cleared_and_closed_deadlines_are_silent() -> None:
    fired: list[int] = []
    loop = asyncio.get_running_loop()
    cleared, closed = (MovingDeadline(loop, lambda: fired.append(1)) for _ in range(2))
    for deadline in (cleared, closed):
        deadline.set(0.01)
    cleared.clear()
    closed.close()
    closed.set(0.01)
    witness = MovingDeadline(loop, lambda: fired.append(2))
    witness.set(0.1)
    await until(lambda: fired != [])
    assert fired == [2]
