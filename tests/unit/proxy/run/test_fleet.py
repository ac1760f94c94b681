from __future__ import annotations

import signal

from hypothesis import given
from hypothesis import strategies as st

from proxy.run.fleet import CONTROL_STOP_S, HURRY_S, KILL_GRACE_S, Fleet, Fork, Send, new_fleet

TERM, KILL = signal.SIGTERM, signal.SIGKILL


def running(workers: int = 2) -> Fleet:
    """A fleet whose processes run: control is 100, the workers are 101, 102, ..."""
    fleet = new_fleet(workers, restart_delay_s=1.0, drain_timeout_s=10.0)
    for number, command in enumerate(fleet.due(0.0)):
        assert isinstance(command, Fork)
        fleet.forked(command.slot, 100 + number, 0.0)
    return fleet


def test_every_slot_is_forked_once() -> None:
    fleet = new_fleet(2, restart_delay_s=1.0, drain_timeout_s=10.0)
    assert fleet.due(0.0) == [Fork("control"), Fork("worker-0"), Fork("worker-1")]
    assert fleet.due(0.0) == []
    assert fleet.next_deadline() is None


def test_a_process_that_lived_long_is_forked_again_at_once() -> None:
    fleet = running()
    slot = fleet.exited(101, 60.0)
    assert slot is not None
    assert (slot.name, slot.restarts, slot.pid) == ("worker-0", 1, 0)
    assert fleet.due(60.0) == [Fork("worker-0")]


def test_a_process_that_died_young_waits() -> None:
    fleet = running()
    fleet.exited(102, 0.3)
    assert fleet.due(0.3) == []
    assert fleet.next_deadline() == 1.0
    assert fleet.due(1.0) == [Fork("worker-1")]


def test_a_fork_that_the_system_refused_is_tried_again() -> None:
    fleet = new_fleet(1, restart_delay_s=0.0, drain_timeout_s=1.0)
    fleet.due(0.0)
    fleet.fork_failed("worker-0", 5.0)
    assert fleet.due(5.0) == []
    assert fleet.due(5.1) == [Fork("worker-0")]


def test_a_child_of_somebody_else_does_not_matter() -> None:
    assert running().exited(999, 1.0) is None


def test_a_drain_stops_workers_first_and_control_last() -> None:
    fleet = running()
    fleet.drain(20.0)
    assert fleet.due(20.0) == [Send(101, TERM), Send(102, TERM)]
    fleet.exited(101, 21.0)
    assert fleet.due(21.0) == []
    fleet.exited(102, 22.0)
    assert fleet.due(22.0) == [Send(100, TERM)]
    assert not fleet.is_finished
    fleet.exited(100, 22.1)
    assert fleet.is_finished


def test_workers_that_do_not_drain_in_time_are_killed() -> None:
    fleet = running()
    fleet.drain(20.0)
    fleet.due(20.0)
    deadline = 20.0 + 10.0 + KILL_GRACE_S
    assert fleet.next_deadline() == deadline
    assert fleet.due(deadline) == [Send(101, KILL), Send(102, KILL)]


def test_a_second_request_hurries() -> None:
    fleet = running()
    fleet.drain(20.0)
    fleet.due(20.0)
    fleet.drain(21.0)
    assert fleet.due(21.0) == [Send(101, TERM), Send(102, TERM)]
    assert fleet.due(21.0 + HURRY_S) == [Send(101, KILL), Send(102, KILL)]


def test_a_control_process_that_hangs_is_killed() -> None:
    fleet = running(1)
    fleet.drain(20.0)
    fleet.exited(101, 20.0)
    fleet.due(20.0)
    assert fleet.due(20.0 + CONTROL_STOP_S) == [Send(100, KILL)]


def test_nothing_is_forked_while_draining_and_a_late_fork_is_stopped() -> None:
    fleet = running()
    fleet.exited(101, 5.0)
    assert fleet.due(5.0) == [Fork("worker-0")]
    fleet.drain(5.0)
    fleet.forked("worker-0", 200, 5.0)
    assert Send(200, TERM) in fleet.due(5.0)
    fleet.exited(102, 5.1)
    assert not any(isinstance(command, Fork) for command in fleet.due(99.0))


def test_a_drain_before_anything_runs_is_finished_at_once() -> None:
    fleet = new_fleet(2, restart_delay_s=1.0, drain_timeout_s=10.0)
    fleet.drain(0.0)
    assert fleet.is_finished
    assert fleet.due(0.0) == []


@given(st.lists(st.tuples(st.sampled_from(["exit", "tick", "drain"]), st.integers(0, 4)), max_size=40))
def test_a_slot_never_has_two_processes_and_a_drain_ends(steps: list[tuple[str, int]]) -> None:
    fleet = new_fleet(3, restart_delay_s=1.0, drain_timeout_s=5.0)
    alive: set[int] = set()
    now, next_pid = 0.0, 1

    def carry_out() -> None:
        nonlocal next_pid
        for command in fleet.due(now):
            if isinstance(command, Fork):
                assert all(slot.pid == 0 for slot in fleet.slots if slot.name == command.slot)
                fleet.forked(command.slot, next_pid, now)
                alive.add(next_pid)
                next_pid += 1
            elif command.signal is KILL:
                alive.discard(command.pid)
                fleet.exited(command.pid, now)

    for action, value in steps:
        carry_out()
        if action == "exit" and alive:
            pid = sorted(alive)[value % len(alive)]
            alive.discard(pid)
            fleet.exited(pid, now)
        elif action == "drain":
            fleet.drain(now)
        now += value
    fleet.drain(now)
    for _ in range(20):
        carry_out()
        deadline = fleet.next_deadline()
        now = max(now, deadline or now)
    assert fleet.is_finished
    assert not alive
