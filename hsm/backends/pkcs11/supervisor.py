"""Carries out what `Supervision` decides: reads PINs, starts and kills workers, keeps time. In the event loop.

Every rule is in `supervision.py`; here are processes, sockets and timers. `ask` is the way to the worker that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TypeAlias

from hsm.backends.base import BackendError
from hsm.backends.pkcs11.commands import (
    GRACE_S,
    Command,
    Counts,
    EndRequests,
    EndWorker,
    KillWorker,
    ReadPin,
    SendPing,
    StartWorker,
    TokenState,
)
from hsm.backends.pkcs11.framing import FramingError
from hsm.backends.pkcs11.link import WorkerLink
from hsm.backends.pkcs11.login import Login, LoginSource
from hsm.backends.pkcs11.messages import Answer, Done, Failed, Open, Opened, Ping, Request
from hsm.backends.pkcs11.pin import PinProblem
from hsm.backends.pkcs11.problems import failure_of
from hsm.backends.pkcs11.process import StartProcess, WorkerProcess, start_worker
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.pkcs11.supervision import Supervision
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode

OnAnswer: TypeAlias = Callable[[Answer | BackendError], None]
"""Hears how a request ended: what the worker answered, or why it could not."""

OPEN_ID = 0
SPARE_REQUESTS = 64
"""Requests besides signatures that may be under way."""
END_TIMEOUT_S = GRACE_S + 3.0


class TokenSupervisor:
    """One token's worker, kept running. Everything but `LoginSource.read` belongs to the event loop's thread."""

    def __init__(
        self,
        settings: TokenSettings,
        login: LoginSource,
        loop: asyncio.AbstractEventLoop,
        in_thread: Callable[[Callable[[], None]], None],
        on_opened: Callable[[Opened], None],
        *,
        start_worker: StartProcess = start_worker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`in_thread` runs what may block, besides the loop; `on_opened` hears each time the token was opened."""
        self._settings = settings
        self._source = login
        self._loop = loop
        self._in_thread = in_thread
        self._on_opened = on_opened
        self._start_worker = start_worker
        self._clock = clock
        limit = 2 * settings.concurrency + SPARE_REQUESTS
        self._machine: Supervision[OnAnswer] = Supervision(settings.timing, login.refused, limit)
        self._log = get_logger("token").bind(token=settings.name)
        self._login: Login | None = None
        self._worker: WorkerProcess | None = None
        self._link: WorkerLink | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._told = TokenState.STOPPED
        self._told_problem = ""
        self._first: asyncio.Future[None] = loop.create_future()
        self._gone = asyncio.Event()
        self._gone.set()

    # what it is

    @property
    def state(self) -> TokenState:
        """Where the token is in its life."""
        return self._machine.state

    @property
    def problem(self) -> tuple[Failure | None, str]:
        """What went wrong last; (None, "") while the token is up."""
        return self._machine.problem_kind, self._machine.problem

    @property
    def counts(self) -> Counts:
        """What happened since the start."""
        return self._machine.counts

    @property
    def in_flight(self) -> int:
        """Requests that wait for their end."""
        return self._machine.in_flight

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker that runs."""
        return self._worker.pid if self._worker is not None else None

    # its life

    async def start(self) -> None:
        """Begin, and wait until the token was opened or that failed for the first time; see `state`."""
        self._carry_out(self._machine.start(self._clock()))
        # The machine bounds each step: reading the PIN, opening, and the end of a killed worker is not waited for.
        await asyncio.wait((self._first,), timeout=2 * self._settings.open_timeout_s + END_TIMEOUT_S)

    def try_again(self) -> None:
        """Try to open the token now, also with a PIN that it refused."""
        self._carry_out(self._machine.try_again(self._clock()))

    async def stop(self) -> None:
        """End the worker and every request. May be called again."""
        self._carry_out(self._machine.stop(self._clock()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), END_TIMEOUT_S)

    # requests

    def ask(self, build: Callable[[int], Request], on_answer: OnAnswer, limit_s: float) -> None:
        """Send the request that `build` makes for its number; `on_answer` is called once, in a later turn."""
        number = self._machine.ask(on_answer, self._clock(), limit_s)
        if isinstance(number, BackendError):
            self._loop.call_soon(on_answer, number)
            return
        assert self._link is not None
        try:
            self._link.send(build(number))
        except FramingError as error:
            self._machine.answered(number)
            self._loop.call_soon(on_answer, BackendError(ErrorCode.MALFORMED, str(error)))

    def _on_answer(self, answer: Answer) -> None:
        if answer.id == OPEN_ID:
            self._opening_ended(answer)
        elif isinstance(answer, Failed):
            asked, commands = self._machine.failed(answer.id, failure_of(answer), answer.detail, self._clock())
            if asked is not None:
                asked(answer)
            self._carry_out(commands)
        elif (asked := self._machine.answered(answer.id)) is not None:
            asked(answer)
        elif isinstance(answer, Done):
            self._machine.ponged(answer.id)

    def _opening_ended(self, answer: Answer) -> None:
        now = self._clock()
        if isinstance(answer, Opened):
            was_opening = self._machine.state is TokenState.OPENING
            commands = self._machine.opened(now)
            if was_opening:
                self._on_opened(answer)
        elif isinstance(answer, Failed):
            commands = self._machine.open_failed(failure_of(answer), answer.detail, now)
        else:
            commands = self._machine.link_lost("the token's process does not speak as it should", now)
        self._carry_out(commands)

    # commands

    def _carry_out(self, commands: list[Command[OnAnswer]]) -> None:
        self._tell_state()
        for command in commands:
            match command:
                case ReadPin(number):
                    self._begin_reading(number)
                case StartWorker():
                    self._begin_worker()
                case EndWorker():
                    self._hang_up()
                case KillWorker():
                    self._kill_worker()
                case SendPing(number):
                    assert self._link is not None
                    self._link.send(Ping(id=number))
                case EndRequests(asked, error):
                    for on_answer in asked:
                        self._loop.call_soon(on_answer, error)
                case _:
                    raise RuntimeError(f"unexpected command: {command}")
        self._set_timer()

    def _begin_reading(self, number: int) -> None:
        try:
            self._in_thread(lambda: self._read_pin(number))
        except RuntimeError as error:  # the system gives no more threads now
            self._loop.call_soon(self._pin_read, number, f"the PIN can't be read: {error}")

    def _read_pin(self, number: int) -> None:
        """In a thread."""
        try:
            with self._source.turn(self._settings.call_timeout_s):  # an operation may just hear that it is refused
                login: Login | str = self._source.read()
        except PinProblem as problem:
            login = problem.sentence
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self._pin_read, number, login)

    def _pin_read(self, number: int, login: Login | str) -> None:
        now = self._clock()
        if isinstance(login, str):
            self._carry_out(self._machine.pin_unreadable(number, login, now))
            return
        self._login = login
        self._carry_out(self._machine.pin_read(number, login.mark, now))
        self._login = None

    def _begin_worker(self) -> None:
        settings = self._settings
        assert self._worker is None
        assert self._login is not None
        self._gone.clear()
        try:
            worker = self._start_worker(settings)
        except OSError as error:
            self._loop.call_soon(self._worker_ended, f"the token's process can't be started: {error.strerror}")
            return
        try:
            worker.watch(self._tell_end)
        except RuntimeError as error:  # the system gives no more threads now; nobody would hear of its end
            worker.connection.close()
            worker.kill()
            worker.wait(END_TIMEOUT_S)
            self._loop.call_soon(self._worker_ended, f"the token's process can't be watched: {error}")
            return
        self._worker = worker
        self._link = WorkerLink(worker.connection, self._loop, self._on_answer, self._link_lost)
        pin = self._login.pin.reveal() if self._login.pin is not None else None
        self._link.send(
            Open(
                id=OPEN_ID,
                module=str(settings.module),
                token=settings.token,
                objects=settings.objects,
                pin=pin,
                sessions=settings.concurrency,
            )
        )

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _kill_worker(self) -> None:
        self._hang_up()
        if self._worker is not None:
            self._worker.kill()

    def _tell_end(self, sentence: str) -> None:
        """In a thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._worker_ended, sentence)

    def _worker_ended(self, sentence: str) -> None:
        if self._link is not None:
            self._link.read()  # its last words: answers that came before the end count
        self._kill_worker()
        self._worker = None
        self._gone.set()
        self._carry_out(self._machine.worker_ended(sentence, self._clock()))

    def _link_lost(self, sentence: str) -> None:
        self._link = None
        self._carry_out(self._machine.link_lost(sentence, self._clock()))

    # time and words

    def _set_timer(self) -> None:
        due = self._machine.next_tick()
        if self._timer is not None:
            if due == self._timer_at:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_at = due
            self._timer = self._loop.call_later(max(0.0, due - self._clock()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._link is not None:
            self._link.read()
        self._carry_out(self._machine.tick(self._clock()))

    def _tell_state(self) -> None:
        """Say once what changed."""
        state, machine = self._machine.state, self._machine
        if state is self._told:
            return
        self._told = state
        if state is TokenState.UP:
            self._told_problem = ""
            self._log.info("token_up", worker=self.worker_pid, openings=machine.counts.openings)
        elif machine.problem and machine.problem != self._told_problem:
            self._told_problem = machine.problem
            if self._first.done():  # whoever waits for the start says how it failed
                self._log.warning("token_down", state=state.value, reason=machine.problem)
        if state not in (TokenState.STARTING, TokenState.OPENING) and not self._first.done():
            self._first.set_result(None)
