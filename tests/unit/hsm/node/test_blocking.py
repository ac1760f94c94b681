from __future__ import annotations

import asyncio
import threading

import pytest

from hsm.node.blocking import BlockingCalls
from tests.support.node import until


async def test_results_and_errors_come_back() -> None:
    calls = BlockingCalls()
    assert await calls.run(threading.get_ident) != threading.get_ident()
    assert await calls.run(lambda: None) is None

    def fail() -> None:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await calls.run(fail)
    assert await calls.finished(0.0)


async def test_a_cancelled_call_is_known_until_it_ends() -> None:
    calls, gate = BlockingCalls(), threading.Event()
    waiting = asyncio.create_task(calls.run(lambda: gate.wait(10)))
    await until(lambda: bool(calls._unfinished))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not await calls.finished(0.02)
    gate.set()
    assert await calls.finished(10)


def test_a_call_that_hangs_does_not_keep_the_loop_from_ending() -> None:
    gate = threading.Event()
    calls = BlockingCalls()

    async def leave_one_behind() -> None:
        task = asyncio.create_task(calls.run(lambda: gate.wait(10)))
        await until(lambda: bool(calls._unfinished))
        task.cancel()

    asyncio.run(leave_one_behind())
    threads = tuple(calls._unfinished)
    assert [thread.is_alive() for thread in threads] == [True]
    gate.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
