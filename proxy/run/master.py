"""The master: forks the fleet and keeps it alive. One thread, no event loop, no client traffic.

Everything the fleet shares is built before the first fork: contexts (and with them OpenSSL's session ticket keys, so
that a ticket of one worker resumes at every other), sockets, the board. A process that dies is forked again with the
same things. `fleet.py` decides; this file carries out.

Reload and upgrade will get their place here: a new `Prepared` with the next generation, forked on the same sockets.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NoReturn

from hsm.shared.hardening import harden_process
from hsm.shared.logs import configure, get_logger
from proxy import __version__
from proxy.run import metrics
from proxy.run.board import Board, MasterReport, SlotReport, is_fresh
from proxy.run.control import run_control
from proxy.run.fleet import Fork, Role, Send, Slot, new_fleet
from proxy.run.place import Place
from proxy.run.prepare import Prepared
from proxy.run.process import HANDLED, forget_masters_signals, name_process, signal_name
from proxy.run.sockets import BoundListener, bind_listener, bind_single, close_all
from proxy.run.worker import run_worker

ANNOUNCE_WITHIN_S = 10.0
"""After this the master says what it waits for, and goes on waiting."""
LOOK_S = 0.05
"""How often the master looks for readiness until it has announced it."""
CRASHED = 70
"""Exit status of a process that ended by an unexpected exception (EX_SOFTWARE)."""


class Master:
    """The fleet and what it shares."""

    def __init__(self, prepared: Prepared, announce: Callable[[str], None]) -> None:
        """`announce` prints lines for the person at the terminal. Raises ListenError when an address is taken."""
        process = prepared.config.process
        workers = process.workers or len(os.sched_getaffinity(0))
        self._prepared = prepared
        self._config = prepared.config
        self._announce = announce
        self._log = get_logger("run")
        self._generation = 1
        self._incarnations = 0
        self._incarnation_of: dict[int, int] = {}
        self._signals: list[int] = []
        self._started = datetime.now(UTC)
        self._listeners, self._control = self._bind(workers)
        self._board = Board.create()
        self._fleet = new_fleet(
            workers, restart_delay_s=process.restart_delay_s, drain_timeout_s=process.drain_timeout_s
        )

    def run(self) -> int:
        """Until a drain is complete. Returns the exit status."""
        configure("sealgate-master", fmt=self._config.process.log_format, level=self._config.process.log_level)
        harden_process()
        name_process("sealgate-master")
        for warning in self._prepared.warnings:
            self._log.warning("config_warning", detail=warning)
        gc.collect()
        gc.freeze()
        self._life_read, self._life_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._on_signal) for number in HANDLED}
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        try:
            self._loop()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for fd in (self._life_read, self._life_write, self._wake_read, self._wake_write):
                os.close(fd)
            self.close()
        self._log.info("stopped")
        return 0

    def close(self) -> None:
        """Give back sockets and the board's folder."""
        close_all([*self._listeners, self._control])
        self._board.remove()

    def _bind(self, workers: int) -> tuple[list[BoundListener], BoundListener]:
        bound: list[BoundListener] = []
        try:
            for listener in self._config.listeners:
                bound.append(bind_listener(listener.name, listener.address, listener.backlog, workers))
            return bound, bind_single(self._config.control.address)
        except BaseException:
            close_all(bound)
            raise

    # the loop

    def _loop(self) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        self._announce_at: float | None = time.monotonic() + ANNOUNCE_WITHIN_S
        self._is_announced = False
        while True:
            self._carry_out()
            if self._fleet.is_finished:
                return
            poll.poll(self._timeout_ms())
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
            self._handle_signals()
            self._reap()
            if not self._is_announced and not self._fleet.is_draining:
                self._look_for_readiness()

    def _timeout_ms(self) -> int | None:
        if not self._is_announced and not self._fleet.is_draining:
            return int(LOOK_S * 1000)
        deadline = self._fleet.next_deadline()
        if deadline is None:
            return None
        return max(0, int((deadline - time.monotonic()) * 1000) + 1)

    def _carry_out(self) -> None:
        changed = False
        for command in self._fleet.due(time.monotonic()):
            changed = True
            if isinstance(command, Fork):
                self._fork(command.slot)
            elif isinstance(command, Send):
                self._send(command)
        if changed:
            self._report()

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals.append(number)

    def _handle_signals(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop(signal.Signals(number).name)
            elif number in (signal.SIGHUP, signal.SIGUSR2):
                self._log.warning("signal_not_supported_yet", signal=signal.Signals(number).name, action="ignored")

    def _stop(self, why: str) -> None:
        is_second = self._fleet.is_draining
        self._log.info("hurrying" if is_second else "draining", signal=why)
        # Without our handles the workers' closing is the real end of the listening sockets.
        close_all(self._listeners)
        self._fleet.drain(time.monotonic())
        self._report()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            slot = self._fleet.exited(pid, time.monotonic())
            incarnation = self._incarnation_of.pop(pid, None)
            if incarnation is not None:
                self._bury(incarnation)
            if slot is not None:
                self._log_exit(slot, pid, os.waitstatus_to_exitcode(status))
                self._report()

    def _bury(self, incarnation: int) -> None:
        try:
            self._board.bury(incarnation, metrics.FAMILIES.values())
        except OSError as error:  # a full disk, say: numbers are lost, but no client
            self._log.warning("counts_lost", error=str(error))

    def _log_exit(self, slot: Slot, pid: int, code: int) -> None:
        how = f"signal {signal_name(-code)}" if code < 0 else f"status {code}"
        if self._fleet.is_draining and code in (0, -signal.SIGTERM):
            self._log.info("process_stopped", slot=slot.name, pid=pid)
        else:
            self._log.error("process_died", slot=slot.name, pid=pid, how=how, restarts=slot.restarts)

    # processes

    def _send(self, command: Send) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(command.pid, command.signal)
        if command.signal is signal.SIGKILL:
            self._log.error("process_killed", pid=command.pid, reason="it did not stop in time")

    def _fork(self, name: str) -> None:
        """Fork one process. Signals are held back meanwhile, so that the child gets none with our handlers."""
        self._incarnations += 1
        place = self._place(name, self._incarnations)
        sys.stdout.flush()
        sys.stderr.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            pid = os.fork()
            if pid == 0:
                self._be_child(place, mask)
        except OSError as error:
            self._log.error("fork_failed", slot=name, error=error.strerror)
            self._fleet.fork_failed(name, time.monotonic())
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._incarnation_of[pid] = self._incarnations
        self._fleet.forked(name, pid, time.monotonic())
        self._log.info("process_started", slot=name, pid=pid)

    def _place(self, name: str, incarnation: int) -> Place:
        is_control = name == Role.CONTROL.value
        index = None if is_control else int(name.rpartition("-")[2])
        pairs = zip(self._config.listeners, self._listeners, strict=True)
        return Place(
            slot=name,
            incarnation=incarnation,
            generation=self._generation,
            config=self._config,
            contexts=self._prepared.contexts,
            board=self._board,
            life_fd=self._life_read,
            sockets=() if index is None else tuple((config, bound.sockets[index]) for config, bound in pairs),
            control=self._control.sockets[0] if is_control else None,
        )

    def _be_child(self, place: Place, mask: set[int] | set[signal.Signals]) -> NoReturn:
        """The child's whole life. Never returns into the master's frames."""
        code = CRASHED
        try:
            forget_masters_signals()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for fd in (self._life_write, self._wake_read, self._wake_write):
                os.close(fd)
            self._close_others_sockets(place)
            name_process(f"sealgate-{place.slot.replace('worker-', 'w').replace('control', 'ctl')}")
            code = run_control(place) if place.control is not None else run_worker(place)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _close_others_sockets(self, place: Place) -> None:
        own = {id(bound) for _, bound in place.sockets} | {id(place.control)}
        for listener in [*self._listeners, self._control]:
            for bound in listener.sockets:
                if id(bound) not in own:
                    bound.close()

    # what is told

    def _report(self) -> None:
        report = MasterReport(
            pid=os.getpid(),
            version=__version__,
            generation=self._generation,
            started=self._started.isoformat(timespec="seconds"),
            is_draining=self._fleet.is_draining,
            slots=tuple(SlotReport(name=each.name, pid=each.pid, restarts=each.restarts) for each in self._fleet.slots),
            listeners=tuple(listener.address for listener in self._listeners),
        )
        try:
            self._board.publish_master(report)
        except OSError as error:
            self._log.warning("report_not_written", error=str(error))

    def _look_for_readiness(self) -> None:
        """Print one line as soon as every worker is ready; and one that says what is missing, when that takes long."""
        reports = {report.pid: report for report in self._board.workers()}
        workers = [slot for slot in self._fleet.slots if slot.role is Role.WORKER]
        waiting = [
            f"{slot.name} {report.unready_because or 'is starting'}" if report else f"{slot.name} is starting"
            for slot in workers
            if not ((report := reports.get(slot.pid)) and report.is_ready and is_fresh(report))
        ]
        where = ", ".join(f"https://{listener.address}" for listener in self._listeners)
        if not waiting:
            self._is_announced = True
            control = self._control.address
            self._say(f"sealgate {__version__} ready: {len(workers)} workers on {where}; control http://{control}")
        elif self._announce_at is not None and time.monotonic() > self._announce_at:
            self._announce_at = None
            self._say(f"sealgate {__version__} is not ready yet: {waiting[0]}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # whoever read our output may be gone, and clients must not care
            self._announce(line)
