"""Which processes should run, decided without running any: the master's bookkeeping.

Slots are the fixed places of processes: one per worker, one for the control process. The master carries out what
`due` returns, reports what happened (`forked`, `exited`), and asks again. Pure: `now` comes in, commands come out.

A drain has two steps, so that metrics can be read until the last client is gone: first the workers, then the rest.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import StrEnum

KILL_GRACE_S = 2.0
"""Workers cut their last connections when the drain's time is over; this much later they are killed."""
HURRY_S = 1.0
"""After a second SIGTERM: what remains to workers before they are killed."""
CONTROL_STOP_S = 5.0
"""How long the control process may take to stop."""


class Role(StrEnum):
    """What runs in a slot."""

    WORKER = "worker"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a process in a slot."""

    slot: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a signal to a process."""

    pid: int
    signal: signal.Signals


Command = Fork | Send


@dataclass(slots=True)
class Slot:
    """One place for a process."""

    name: str
    role: Role
    pid: int = 0
    forked_at: float = 0.0
    fork_at: float | None = 0.0
    """When to fork; None while a process runs or none is wanted."""
    restarts: int = 0


@dataclass(slots=True)
class Fleet:
    """All slots, and whether they are being drained."""

    slots: list[Slot]
    restart_delay_s: float
    drain_timeout_s: float
    is_draining: bool = False
    _commands: list[Command] = field(default_factory=list)
    _kill_at: float | None = None
    _control_is_stopping: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether everything that was drained is gone."""
        return self.is_draining and not any(slot.pid for slot in self.slots)

    def due(self, now: float) -> list[Command]:
        """What is to be done now."""
        commands, self._commands = self._commands, []
        for slot in self.slots:
            if slot.fork_at is not None and slot.fork_at <= now and not self.is_draining:
                slot.fork_at = None
                commands.append(Fork(slot.name))
        if self.is_draining:
            commands += self._drain_step(now)
        return commands

    def next_deadline(self) -> float | None:
        """When `due` has something new to say, if nothing happens before."""
        if self.is_draining:
            return self._kill_at
        return min((slot.fork_at for slot in self.slots if slot.fork_at is not None), default=None)

    def forked(self, name: str, pid: int, now: float) -> None:
        """A process was started in a slot."""
        slot = self._slot(name)
        slot.pid, slot.forked_at, slot.fork_at = pid, now, None
        if self.is_draining:  # the signal that started the drain came while we forked
            self._commands.append(Send(pid, signal.SIGTERM))

    def fork_failed(self, name: str, now: float) -> None:
        """The system refused to fork: try again later."""
        self._slot(name).fork_at = now + max(self.restart_delay_s, 0.1)

    def exited(self, pid: int, now: float) -> Slot | None:
        """A process is gone; its slot (None: none of ours) is forked again, at once if the process lived long."""
        slot = next((slot for slot in self.slots if slot.pid == pid), None)
        if slot is None:
            return None
        slot.pid = 0
        if not self.is_draining:
            slot.restarts += 1
            slot.fork_at = max(now, slot.forked_at + self.restart_delay_s)
        return slot

    def drain(self, now: float) -> None:
        """Stop everything in order; called again: hurry."""
        if not self.is_draining:
            self.is_draining = True
            self._kill_at = now + self.drain_timeout_s + KILL_GRACE_S
        else:
            self._kill_at = min(self._kill_at or now, now) + HURRY_S
        for slot in self.slots:
            slot.fork_at = None
            if slot.pid and slot.role is Role.WORKER:
                self._commands.append(Send(slot.pid, signal.SIGTERM))

    def _drain_step(self, now: float) -> list[Command]:
        workers = [slot.pid for slot in self.slots if slot.pid and slot.role is Role.WORKER]
        others = [slot.pid for slot in self.slots if slot.pid and slot.role is not Role.WORKER]
        commands: list[Command] = []
        if not workers and others and not self._control_is_stopping:
            self._control_is_stopping = True
            self._kill_at = now + CONTROL_STOP_S
            commands += [Send(pid, signal.SIGTERM) for pid in others]
        elif self._kill_at is not None and self._kill_at <= now:
            self._kill_at = now + HURRY_S
            commands += [Send(pid, signal.SIGKILL) for pid in (workers or others)]
        return commands

    def _slot(self, name: str) -> Slot:
        return next(slot for slot in self.slots if slot.name == name)


def new_fleet(workers: int, *, restart_delay_s: float, drain_timeout_s: float) -> Fleet:
    """A control process and `workers` workers, all to be forked at once."""
    slots = [Slot("control", Role.CONTROL), *(Slot(f"worker-{index}", Role.WORKER) for index in range(workers))]
    return Fleet(slots, restart_delay_s, drain_timeout_s)
