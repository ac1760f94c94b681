from __future__ import annotations

import threading
from typing import cast

import pytest

from hsm.backends.pkcs11 import signing_threads
from hsm.backends.pkcs11.cryptoki import CryptokiError
from hsm.backends.pkcs11.messages import Answer, Failed, Sign, Signed
from hsm.backends.pkcs11.outbox import Outbox
from hsm.backends.pkcs11.sessions import Session
from hsm.backends.pkcs11.signing_threads import SigningThreads
from hsm.wire.schemes import Scheme


class Box:
    """Takes answers as an outbox does."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._changed = threading.Condition()

    def put(self, answer: Answer) -> None:
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()

    def wait_for(self, count: int) -> list[Answer]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.answers) >= count, 20)
            return self.answers


class Scripted:
    """A session that does what the payload says; it notes who used it and how many were used at once."""

    busy = 0
    most = 0
    gate = threading.Event()
    lock = threading.Lock()

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.is_closed = False

    def sign(self, _key: bytes, _scheme: Scheme, payload: bytes) -> bytes:
        self.threads.add(threading.get_ident())
        with self.lock:
            Scripted.busy += 1
            Scripted.most = max(Scripted.most, Scripted.busy)
        try:
            match payload:
                case b"wait":
                    assert self.gate.wait(20)
                case b"busy":
                    raise CryptokiError(6, "C_Sign")
                case b"bug":
                    raise ZeroDivisionError
            return b"signed " + payload
        finally:
            with self.lock:
                Scripted.busy -= 1

    def close(self) -> None:
        self.is_closed = True


def ask(number: int, payload: bytes = b"x", scheme: str = "ed25519") -> Sign:
    return Sign(id=number, key=b"k", scheme=scheme, payload=payload)


@pytest.fixture
def box() -> Box:
    Scripted.gate, Scripted.most = threading.Event(), 0
    return Box()


@pytest.fixture
def sessions() -> list[Scripted]:
    return [Scripted() for _ in range(4)]


@pytest.fixture
def threads(box: Box, sessions: list[Scripted]) -> SigningThreads:
    made = SigningThreads(cast("Outbox", box))
    made.start(cast("list[Session]", sessions))
    return made


def test_each_session_has_one_thread_and_all_may_sign_at_once(
    threads: SigningThreads, box: Box, sessions: list[Scripted]
) -> None:
    for number in range(100):
        threads.give(ask(number, b"wait"))
    deadline = threading.Event()
    while Scripted.busy < 4:
        assert not deadline.wait(0.001)
    Scripted.gate.set()
    assert sorted(answer.id for answer in box.wait_for(100)) == list(range(100))
    assert Scripted.most == 4
    assert all(len(session.threads) == 1 for session in sessions)
    assert threads.stop(10)
    assert all(session.is_closed for session in sessions)


def test_whatever_happens_is_one_answer(threads: SigningThreads, box: Box) -> None:
    for request in (
        ask(1),
        ask(2, b"busy"),
        ask(3, b"bug"),
        ask(4, scheme="rot13"),
        ask(5, b"short", scheme="ecdsa_sha256"),
        ask(6),
    ):
        threads.give(request)
    answers = {answer.id: answer for answer in box.wait_for(6)}
    assert threads.stop(10)
    assert answers[1] == Signed(id=1, signature=b"signed x")
    assert answers[6] == Signed(id=6, signature=b"signed x")
    kinds = {number: answer.kind for number, answer in answers.items() if isinstance(answer, Failed)}
    assert kinds == {2: "busy", 3: "broken", 4: "invalid", 5: "invalid"}
    assert len(box.answers) == 6


def test_before_the_token_is_open_requests_are_refused(box: Box) -> None:
    SigningThreads(cast("Outbox", box)).give(ask(1))
    (answer,) = box.answers
    assert isinstance(answer, Failed)
    assert answer.kind == "invalid"


def test_the_queue_has_a_bound(threads: SigningThreads, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_threads, "MAX_WAITING", 10)
    for number in range(4):
        threads.give(ask(number, b"wait"))
    waiting = threading.Event()
    while Scripted.busy < 4:
        assert not waiting.wait(0.001)
    for number in range(4, 20):
        threads.give(ask(number))
    refused = list(box.answers)
    assert [(answer.id, answer.kind) for answer in refused if isinstance(answer, Failed)] == [
        (number, "busy") for number in range(14, 20)
    ]
    Scripted.gate.set()
    assert len(box.wait_for(20)) == 20
    assert threads.stop(10)


def test_what_still_waits_at_the_end_is_dropped(threads: SigningThreads, box: Box) -> None:
    """Nobody is there any more to hear of it."""
    for number in range(50):
        threads.give(ask(number, b"wait"))
    waiting = threading.Event()
    while Scripted.busy < 4:
        assert not waiting.wait(0.001)
    assert not threads.stop(0.01)
    Scripted.gate.set()
    assert threads.stop(10)
    assert len(box.answers) == 4


def test_a_thread_that_hangs_does_not_hold_up_the_end(threads: SigningThreads, box: Box) -> None:
    threads.give(ask(1, b"wait"))
    waiting = threading.Event()
    while Scripted.busy < 1:
        assert not waiting.wait(0.001)
    assert not threads.stop(0.05)
    Scripted.gate.set()
    box.wait_for(1)
