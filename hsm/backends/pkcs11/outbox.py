"""Answers on their way to the node: many threads put them in, and what has gathered leaves in one write.

Whoever puts an answer in sends it, and with it what others put in meanwhile; nobody waits for another's write.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

from hsm.backends.pkcs11.framing import FramingError, frame
from hsm.backends.pkcs11.messages import Answer, Failed
from hsm.backends.pkcs11.results import Failure


class Outbox:
    """Sends answers over a blocking socket. It holds at most one answer for each request that the node waits for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._waiting: deque[bytes] = deque()
        self._sending = threading.Lock()

    def put(self, answer: Answer) -> None:
        """Send an answer. Blocks while the node does not read; a node that is gone is not an error here."""
        try:
            data = frame(answer)
        except FramingError as error:
            data = frame(Failed(id=answer.id, kind=Failure.BROKEN, rv=0, call="", detail=str(error)))
        self._waiting.append(data)
        # Who fails to get the lock leaves the answer to its holder, who looks again after letting go.
        while self._waiting and self._sending.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._sending.release()

    def _send(self) -> None:
        pieces = []
        with contextlib.suppress(IndexError):
            while True:
                pieces.append(self._waiting.popleft())
        with contextlib.suppress(OSError):  # the thread that reads sees its end
            self._connection.sendall(b"".join(pieces))
