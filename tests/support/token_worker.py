"""A token worker as a node has it: the real program, asked over its socket."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hsm.backends.pkcs11.framing import answer_reader, frame
from hsm.backends.pkcs11.messages import (
    Answer,
    FoundKey,
    Generate,
    Import,
    KeysFound,
    ObjectMatch,
    Open,
    Opened,
    Request,
    Sign,
    Signed,
    TokenMatch,
)
from hsm.wire.schemes import KeyType
from tests.support.softhsm import SoftToken

ROOT = Path(__file__).parents[2]
A = TypeVar("A")


class TokenWorker:
    """One worker process; `with` ends it."""

    def __init__(
        self, token: SoftToken, *, module: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.token = token
        self.module = module or token.module
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(60)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hsm.backends.pkcs11.worker", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            cwd=ROOT,
            env={**os.environ, **token.environment, **(environment or {})},
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self._reader = answer_reader()
        self._early: list[Answer] = []
        self._ids = itertools.count(1)

    def __enter__(self) -> TokenWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr.read().decode()
        self.process.stderr.close()

    def next_id(self) -> int:
        return next(self._ids)

    def send(self, *requests: Request) -> None:
        """Send requests without waiting."""
        self.socket.sendall(b"".join(frame(request) for request in requests))

    def receive(self) -> Answer:
        """The next answer, whichever it is."""
        while not self._early:
            data = self.socket.recv(65536)
            assert data, "the worker hung up"
            self._early += self._reader.feed(data)
        return self._early.pop(0)

    def ask(self, request: Request) -> Answer:
        """Ask and wait; no other request may be under way."""
        self.send(request)
        answer = self.receive()
        assert answer.id == request.id
        return answer

    def open_as(self, **changes: object) -> Answer:
        """Ask it to open the token, with other values than usual."""
        usual = {
            "module": self.module,
            "token": TokenMatch(token=self.token.label),
            "objects": ObjectMatch(),
            "pin": self.token.pin.encode(),
            "sessions": 0,
        }
        return self.ask(Open(id=self.next_id(), **{**usual, **changes}))  # type: ignore[arg-type]

    def open(self, sessions: int = 0) -> Opened:
        return expect(self.open_as(sessions=sessions), Opened)

    def generate(self, type_: KeyType, label: str) -> FoundKey:
        (key,) = expect(self.ask(Generate(id=self.next_id(), type=type_, label=label)), KeysFound).keys
        return key

    def import_key(self, key: PrivateKeyTypes, label: str) -> FoundKey:
        pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        request = Import(id=self.next_id(), label=label, private_key=pkcs8)
        (found,) = expect(self.ask(request), KeysFound).keys
        return found

    def sign(self, key: bytes, scheme: str, payload: bytes) -> bytes:
        return expect(self.ask(Sign(id=self.next_id(), key=key, scheme=scheme, payload=payload)), Signed).signature

    def sign_all(self, requests: Iterable[Sign], in_flight: int) -> dict[int, Answer]:
        """Ask all, with so many under way at once; answers by id."""
        waiting = iter(requests)
        answers: dict[int, Answer] = {}
        first = list(itertools.islice(waiting, in_flight))
        self.send(*first)
        due = len(first)
        while due:
            count = 0
            answer = self.receive()
            while True:
                assert answer.id not in answers, "a request was answered twice"
                answers[answer.id] = answer
                count += 1
                if not self._early:
                    break
                answer = self._early.pop(0)
            more = list(itertools.islice(waiting, count))
            if more:
                self.send(*more)
            due += len(more) - count
        return answers


def expect(answer: Answer, kind: type[A]) -> A:
    """The answer, which must be of this kind."""
    assert isinstance(answer, kind), answer
    return answer
