from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.deadlines import Deadlines


class Clock:
    """A loop of which only the clock and timers exist; time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.created = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        self.created += 1
        entry = (when, callback)
        self.timers.append(entry)
        clock = self

        class Handle:
            def cancel(self) -> None:
                clock.timers.remove(entry)

        return Handle()

    def advance(self, to: float) -> None:
        while due := [timer for timer in self.timers if timer[0] <= to]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = to


def make(span_s: float = 10.0) -> tuple[Clock, Deadlines[int], list[tuple[int, float]]]:
    clock = Clock()
    expired: list[tuple[int, float]] = []
    deadlines: Deadlines[int] = Deadlines(
        clock,  # type: ignore[arg-type]
        span_s,
        lambda item: expired.append((item, clock.now)),
    )
    return clock, deadlines, expired


def test_an_item_expires_after_its_span_and_only_once() -> None:
    clock, deadlines, expired = make()
    assert deadlines.start(1) == 110.0
    clock.advance(109.9)
    assert expired == []
    clock.advance(200)
    assert expired == [(1, 110.0)]
    assert len(deadlines) == 0
    assert clock.timers == []


def test_an_item_that_was_stopped_does_not_expire_and_unknown_ones_do_not_matter() -> None:
    clock, deadlines, expired = make()
    deadlines.start(1)
    deadlines.stop(1)
    deadlines.stop(2)
    clock.advance(200)
    assert expired == []


def test_starting_anew_begins_a_new_span() -> None:
    clock, deadlines, expired = make()
    deadlines.start(1)
    clock.advance(105)
    deadlines.start(1)
    clock.advance(114)
    assert expired == []
    clock.advance(115)
    assert expired == [(1, 115.0)]


def test_thousands_of_items_share_one_timer() -> None:
    clock, deadlines, _ = make()
    for item in range(5000):
        deadlines.start(item)
        deadlines.stop(item)
    assert clock.created == 1


def test_the_callback_may_start_and_stop_items() -> None:
    clock = Clock()
    seen: list[int] = []

    def expired(item: int) -> None:
        seen.append(item)
        if len(seen) < 3:
            deadlines.start(item)

    deadlines: Deadlines[int] = Deadlines(clock, 1.0, expired)  # type: ignore[arg-type]
    deadlines.start(7)
    clock.advance(110)
    assert seen == [7, 7, 7]


def test_close_forgets_everything() -> None:
    clock, deadlines, expired = make()
    deadlines.start(1)
    deadlines.close()
    deadlines.close()
    clock.advance(200)
    assert (expired, clock.timers, len(deadlines)) == ([], [], 0)


@given(st.lists(st.tuples(st.sampled_from(["start", "stop", "wait"]), st.integers(0, 5)), max_size=60))
def test_every_item_expires_exactly_when_its_last_start_says(steps: list[tuple[str, int]]) -> None:
    clock, deadlines, expired = make(span_s=3.0)
    due: dict[int, float] = {}
    wanted: list[tuple[int, float]] = []
    for action, value in steps:
        if action == "wait":
            target = clock.now + value
            wanted += sorted(((i, at) for i, at in due.items() if at <= target), key=lambda each: each[1])
            due = {i: at for i, at in due.items() if at > target}
            clock.advance(target)
        elif action == "start":
            due.pop(value, None)
            due[value] = deadlines.start(value)
        else:
            due.pop(value, None)
            deadlines.stop(value)
    assert [item for item, _ in expired] == [item for item, _ in wanted]
    assert all(abs(at - planned) < 0.01 for (_, at), (_, planned) in zip(expired, wanted, strict=True))


async def test_it_works_with_a_real_loop() -> None:
    expired = asyncio.Event()
    deadlines: Deadlines[str] = Deadlines(asyncio.get_running_loop(), 0.01, lambda _: expired.set())
    deadlines.start("x")
    await asyncio.wait_for(expired.wait(), 5)
