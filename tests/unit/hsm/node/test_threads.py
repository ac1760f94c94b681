"""Signing threads."""

from __future__ import annotations

import threading
import time

from hsm.node.threads import SigningThreads

PATIENCE_S = 5.0


def test_each_item_is_worked_on_once_and_collected_once() -> None:
    woken = threading.Event()
    seen: list[int] = []
    threads: SigningThreads[int] = SigningThreads(3, seen.append, woken.set)
    for number in range(1, 101):
        threads.give(number)
    collected: list[int] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(collected) < 100 and time.monotonic() < deadline:
        assert woken.wait(PATIENCE_S)
        woken.clear()
        collected += threads.collect()
    assert sorted(collected) == sorted(seen) == list(range(1, 101))
    assert threads.stop(PATIENCE_S)


def test_one_wake_up_serves_many_results() -> None:
    wakes: list[None] = []
    threads: SigningThreads[int] = SigningThreads(1, lambda _: None, lambda: wakes.append(None))
    for number in range(1, 51):
        threads.give(number)
    assert threads.stop(PATIENCE_S)
    assert len(wakes) == 1
    assert len(threads.collect()) == 50


def test_a_hanging_thread_does_not_hold_up_the_stop() -> None:
    release = threading.Event()

    def hang(_item: int) -> None:
        release.wait(PATIENCE_S)

    threads: SigningThreads[int] = SigningThreads(1, hang, lambda: None)
    threads.give(1)
    begin = time.monotonic()
    assert not threads.stop(0.05)
    assert time.monotonic() - begin < 1.0
    release.set()
    assert threads.stop(PATIENCE_S)


def test_results_wait_for_others_while_there_is_more_to_do_but_not_for_long() -> None:
    wakes: list[int] = []
    gates = [threading.Event() for _ in range(4)]
    patience_s = 0.2
    threads: SigningThreads[int] = SigningThreads(
        1, lambda number: gates[number].wait(PATIENCE_S), lambda: wakes.append(len(wakes)), patience_s=patience_s
    )
    for number in range(4):
        threads.give(number)
    gates[0].set()
    gates[1].set()
    time.sleep(patience_s)  # the time itself is what is tested: after it, the next result must not wait any longer
    assert wakes == []
    gates[2].set()
    deadline = time.monotonic() + PATIENCE_S
    while not wakes and time.monotonic() < deadline:
        time.sleep(0.001)
    assert wakes == [0]
    assert threads.collect() == [0, 1, 2]
    gates[3].set()
    assert threads.stop(PATIENCE_S)
    assert wakes == [0, 1], "the last one wakes the loop at once"
    assert threads.collect() == [3]


def test_no_result_waits_for_another_that_takes_longer_than_the_patience() -> None:
    wakes: list[int] = []
    gates = [threading.Event() for _ in range(2)]
    threads: SigningThreads[int] = SigningThreads(
        1, lambda number: gates[number].wait(PATIENCE_S), lambda: wakes.append(len(wakes)), patience_s=0.02
    )
    for number in range(2):
        threads.give(number)
    time.sleep(0.03)  # so long takes the first
    gates[0].set()
    deadline = time.monotonic() + PATIENCE_S
    while not wakes and time.monotonic() < deadline:
        time.sleep(0.001)
    assert wakes == [0], "though there is more to do"
    assert threads.collect() == [0]
    gates[1].set()
    assert threads.stop(PATIENCE_S)
