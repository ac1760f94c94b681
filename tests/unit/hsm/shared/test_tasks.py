from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from hsm.shared.tasks import Tasks


async def test_results_are_awaited_through_the_task() -> None:
    async def work() -> int:
        return 7

    tasks = Tasks()
    task = tasks.start(work(), name="work")
    assert task.get_name() == "work"
    assert await task == 7
    assert len(tasks) == 0


async def test_a_crash_is_logged_and_reported_once() -> None:
    async def boom() -> None:
        raise ValueError("bad")

    crashed: list[str] = []
    tasks = Tasks(crashed.append)
    with capture_logs() as logs:
        task = tasks.start(boom(), name="boom")
        await asyncio.wait([task])
        await asyncio.sleep(0)
    assert crashed == ["boom"]
    assert [(entry["event"], entry["task"]) for entry in logs] == [("task_crashed", "boom")]


async def test_stop_cancels_waits_and_refuses_new_tasks() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    crashed: list[str] = []
    tasks = Tasks(crashed.append)
    for name in ("a", "b"):
        tasks.start(work(name), name=name)
    await asyncio.sleep(0)
    await tasks.stop()
    assert sorted(ended) == ["a", "b"]
    assert (len(tasks), crashed) == (0, [])
    with pytest.raises(RuntimeError, match="'late' was started after"):
        tasks.start(work("late"), name="late")
    await tasks.stop()


async def test_stop_does_not_wait_for_ever() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    tasks = Tasks()
    task = tasks.start(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await tasks.stop(timeout_s=0.01)
    assert [(entry["event"], entry["task"]) for entry in logs] == [("task_did_not_stop", "stubborn")]
    release.set()
    await task


async def test_a_task_may_stop_its_owner() -> None:
    tasks = Tasks()

    async def last() -> str:
        await tasks.stop()
        return "went on"

    assert await tasks.start(last(), name="last") == "went on"
