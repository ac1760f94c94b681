"""A token worker for one operation of the token's owner: asked and waited for, without an event loop.

Each ask has a deadline; a worker that misses it is killed. Nothing is retried here.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterator

import msgspec

from hsm.backends.pkcs11.commands import GRACE_S
from hsm.backends.pkcs11.framing import FramingError, answer_reader, frame
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import Answer, Failed, Generate, Open, Opened, Request
from hsm.backends.pkcs11.pin import PinProblem
from hsm.backends.pkcs11.problems import WorkerProblem, failure_of
from hsm.backends.pkcs11.process import StartProcess, WorkerProcess, start_worker
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings

GENERATE_TIMEOUT_S = 120.0
"""Making an RSA key of 4096 bits takes some HSMs a minute."""
END_TIMEOUT_S = 5.0
READ_BYTES = 65_536


class BlockingWorker:
    """One open token, used by one thread. See `open`."""

    def __init__(self, process: WorkerProcess, timeout_s: float) -> None:
        self._process = process
        self._timeout_s = timeout_s
        self._reader = answer_reader()
        self._answers: deque[Answer] = deque()
        self._last_id = 0

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        settings: TokenSettings,
        login: LoginSource | None = None,
        *,
        start_worker: StartProcess = start_worker,
    ) -> Iterator[BlockingWorker]:
        """A worker that opened the token and ends with the `with`. Raises WorkerProblem.

        A PIN that `login` knows to be refused is not tried.
        """
        login = login or LoginSource(settings.pin, settings.user)
        with login.turn(settings.open_timeout_s) as is_ours:
            if not is_ours:
                raise WorkerProblem(Failure.BUSY, "others are just opening the token; try again")
            worker = cls._opened(settings, login, start_worker)
        try:
            yield worker
        finally:
            worker._close()

    @classmethod
    def _opened(cls, settings: TokenSettings, login: LoginSource, start_worker: StartProcess) -> BlockingWorker:
        try:
            read = login.read()
        except PinProblem as problem:
            raise WorkerProblem(Failure.INVALID, problem.sentence) from None
        if read.mark in login.refused:
            sentence = "the token refused this PIN before; it is not tried again, because tokens lock themselves"
            raise WorkerProblem(Failure.PIN_REFUSED, sentence)
        try:
            process = start_worker(settings)
        except OSError as error:
            raise WorkerProblem(Failure.BROKEN, f"the token's process can't be started: {error.strerror}") from None
        worker = cls(process, settings.open_timeout_s)
        try:
            worker._open(settings, read.pin.reveal() if read.pin is not None else None)
        except BaseException as problem:
            if isinstance(problem, WorkerProblem) and problem.kind is Failure.PIN_REFUSED:
                login.refused.add(read.mark)
            worker._close()
            raise
        return worker

    def _close(self) -> None:
        self._process.connection.close()
        if not self._process.wait(GRACE_S):
            self._process.kill()
            self._process.wait(END_TIMEOUT_S)

    def ask(self, request: Request, timeout_s: float | None = None) -> Answer:
        """What the worker answers to `request`, whose `id` is chosen here. Raises WorkerProblem, also for Failed."""
        if timeout_s is None:
            timeout_s = GENERATE_TIMEOUT_S if isinstance(request, Generate) else self._timeout_s
        self._last_id += 1
        return self._ask(msgspec.structs.replace(request, id=self._last_id), timeout_s)

    def _open(self, settings: TokenSettings, pin: bytes | None) -> None:
        request = Open(
            id=0, module=str(settings.module), token=settings.token, objects=settings.objects, pin=pin, sessions=1
        )
        answer = self._ask(request, settings.open_timeout_s)
        if not isinstance(answer, Opened):
            raise WorkerProblem(Failure.BROKEN, "the token's process does not speak as it should")

    def _ask(self, request: Request, timeout_s: float) -> Answer:
        deadline = time.monotonic() + timeout_s
        connection = self._process.connection
        try:
            connection.settimeout(timeout_s)
            connection.sendall(frame(request))
            while True:
                answer = self._next_answer(connection, deadline)
                if answer.id == request.id:
                    break
        except TimeoutError:
            self._process.kill()
            raise WorkerProblem(Failure.TOKEN_GONE, f"the token did not answer within {timeout_s:g} s") from None
        except OSError as error:
            raise WorkerProblem(Failure.TOKEN_GONE, f"the token's process is gone: {error.strerror}") from None
        except FramingError as error:
            raise WorkerProblem(Failure.BROKEN, f"the token's process does not speak as it should: {error}") from None
        if isinstance(answer, Failed):
            raise WorkerProblem(failure_of(answer), answer.detail)
        return answer

    def _next_answer(self, connection: socket.socket, deadline: float) -> Answer:
        while not self._answers:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            data = connection.recv(READ_BYTES)
            if not data:
                raise WorkerProblem(Failure.TOKEN_GONE, self._end())
            self._answers.extend(self._reader.feed(data))
        return self._answers.popleft()

    def _end(self) -> str:
        """How the worker ended that hung up."""
        return self._process.end_within(END_TIMEOUT_S) or "the token's process hung up"
