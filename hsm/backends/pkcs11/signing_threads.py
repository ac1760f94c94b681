"""The threads of a token worker that sign, each with a session of its own."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, SimpleQueue

from hsm.backends.pkcs11.failures import failed
from hsm.backends.pkcs11.messages import Answer, Sign, Signed
from hsm.backends.pkcs11.outbox import Outbox
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.sessions import Session
from hsm.wire.schemes import SCHEME_BY_NAME

MAX_WAITING = 65536
"""Requests that may wait; a node has far fewer under way."""


class SigningThreads:
    """Signs what it is given, as many at once as there are sessions. Every request is answered exactly once."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._waiting: SimpleQueue[Sign | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, sessions: list[Session]) -> None:
        """One thread for each session."""
        for number, session in enumerate(sessions):
            name = f"signing-{number}"
            thread = threading.Thread(target=self._work, args=(session,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def give(self, request: Sign) -> None:
        """Take a request. Never blocks."""
        if not self._threads:
            self._outbox.put(failed(request.id, Refused(Failure.INVALID, "the token is not open for signatures")))
        elif self._waiting.qsize() >= MAX_WAITING:
            self._outbox.put(failed(request.id, Refused(Failure.BUSY, "too many requests wait for the token")))
        else:
            self._waiting.put(request)

    def stop(self, timeout_s: float) -> bool:
        """Let the threads end their calls and sessions; whether all did, in about that time. What waits is dropped."""
        with contextlib.suppress(Empty):
            while True:
                self._waiting.get_nowait()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
            if thread.is_alive():
                return False
        return True

    def _work(self, session: Session) -> None:
        while (request := self._waiting.get()) is not None:
            self._outbox.put(_answer(session, request))
        session.close()


def _answer(session: Session, request: Sign) -> Answer:
    try:
        scheme = SCHEME_BY_NAME.get(request.scheme)
        if scheme is None:
            raise Refused(Failure.INVALID, f"{request.scheme!r} is no signature scheme")
        if scheme.payload_bytes not in (None, len(request.payload)):
            raise Refused(Failure.INVALID, f"{scheme.value} signs {scheme.payload_bytes} bytes")
        return Signed(id=request.id, signature=session.sign(request.key, scheme, request.payload))
    except Exception as error:
        return failed(request.id, error)
