"""A token worker that does what a test says: real frames and messages over a socket, and no library behind them.

`python -m tests.support.fake_token_worker FD`. The file named by FAKE_TOKEN is read at each request: JSON, by the name
of the request, of what becomes of it: "ok", a value of `Failure`, "hang", "crash", "garbage" or "silence" (this request
only gets no answer). "keys" is a list of labels. Each pin that opened or was refused is added to FAKE_TOKEN.pins.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsm.backends.pkcs11.framing import frame, request_reader
from hsm.backends.pkcs11.messages import (
    Answer,
    Done,
    Failed,
    FoundKey,
    KeysFound,
    ListKeys,
    Open,
    Opened,
    Ping,
    Request,
    Sign,
    Signed,
)
from hsm.backends.pkcs11.results import Failure
from hsm.wire.schemes import KeyType

if TYPE_CHECKING:
    from hsm.backends.pkcs11.process import WorkerProcess
    from hsm.backends.pkcs11.settings import TokenSettings


def ski_of(label: str) -> bytes:
    """The SKI of a key of a fake token."""
    return hashlib.sha1(label.encode()).digest()


class FakeToken:
    """The test's side: what the next requests meet."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fake-token.json"
        self._says: dict[str, Any] = {"keys": ["www"]}
        self.say()

    @property
    def environment(self) -> dict[str, str]:
        """For the settings of the token."""
        return {"FAKE_TOKEN": str(self.path)}

    def say(self, **says: Any) -> None:
        """From now on: for example sign="crash"."""
        self._says.update(says)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self._says))
        draft.rename(self.path)

    def pins(self) -> list[str]:
        """Every PIN that was tried, in order."""
        tried = self.path.with_suffix(".pins")
        return tried.read_text().splitlines() if tried.exists() else []


def start_fake(settings: TokenSettings) -> WorkerProcess:
    """Starts the fake worker for these settings."""
    from hsm.backends.pkcs11.process import WorkerProcess  # not in the worker, which is to start quickly

    command: Callable[[int], list[str]] = lambda fd: [sys.executable, "-m", "tests.support.fake_token_worker", str(fd)]  # noqa: E731
    return WorkerProcess(settings.environment, command=command)


def _keys(says: dict[str, Any]) -> tuple[FoundKey, ...]:
    return tuple(FoundKey(ski_of(label), KeyType.P256, label, b"id", b"", True, False) for label in says["keys"])


def _answer(request: Request, says: dict[str, Any]) -> Answer:
    match request:
        case Open():
            return Opened(id=request.id, keys=_keys(says), left_out=(), token="fake", serial="1", library="fake 1.0")
        case ListKeys():
            return KeysFound(id=request.id, keys=_keys(says))
        case Sign():
            return Signed(id=request.id, signature=b"signed:" + request.payload)
        case Ping():
            return Done(id=request.id)
        case _:
            return Failed(id=request.id, kind="unfit", rv=0, call="", detail="a fake token can't do this")


def _serve(connection: socket.socket, control: Path) -> None:
    reader = request_reader()
    while data := connection.recv(65536):
        for request in reader.feed(data):
            says = json.loads(control.read_text())
            if isinstance(request, Open):
                with control.with_suffix(".pins").open("a") as tried:
                    tried.write((request.pin or b"").decode() + "\n")
            what = says.get(type(request).__name__.lower(), "ok")
            if isinstance(request, Open) and "pin" in says and (request.pin or b"").decode() != says["pin"]:
                what = "pin_refused"
            if what == "hang":
                time.sleep(3600)
            elif what == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            elif what == "garbage":
                connection.sendall(b"\xff" * 64)
            elif what in set(Failure):
                sentence = f"C_Call failed: {what}"
                connection.sendall(frame(Failed(id=request.id, kind=what, rv=1, call="C_Call", detail=sentence)))
            elif what != "silence":
                connection.sendall(frame(_answer(request, says)))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), Path(os.environ["FAKE_TOKEN"]))
