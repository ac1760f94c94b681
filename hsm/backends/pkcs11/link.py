"""The node's end of the socket to a token worker, in the event loop. Knows frames, not what they mean.

What one turn of the loop wants to send leaves in one write, and what has come is read in large pieces: with many
signatures under way a system call serves several of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from hsm.backends.pkcs11.framing import FramingError, answer_reader, frame
from hsm.backends.pkcs11.messages import Answer, Request

READ_BYTES = 262_144
MAX_READS = 16
"""Per turn, so that a worker can't keep the loop from everything else."""


class WorkerLink:
    """One worker's socket. `on_answer` hears every answer; `on_lost` once why there can be no more.

    After `close` nothing is called. What is not written yet is bounded by the requests in flight, which callers bound.
    """

    def __init__(
        self,
        connection: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_answer: Callable[[Answer], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._socket = connection
        self._loop = loop
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._reader = answer_reader()
        self._unsent = bytearray()
        self._is_flush_scheduled = False
        self._is_writing = False
        self._is_open = True
        connection.setblocking(False)
        loop.add_reader(connection.fileno(), self.read)

    def send(self, request: Request) -> None:
        """Have a request written in the next turn of the loop. Raises FramingError for one that is too long."""
        self._unsent += frame(request)
        if not self._is_flush_scheduled and not self._is_writing:
            self._is_flush_scheduled = True
            self._loop.call_soon(self._flush)

    def read(self) -> None:
        """Take what has come. The loop calls it; so does whoever must know whether something has come."""
        for _ in range(MAX_READS):
            if not self._is_open:
                return
            try:
                data = self._socket.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                return self._lose(f"the token's process can't be heard: {error.strerror}")
            if not data:
                return self._lose("the token's process hung up")
            self._take(data)
            if len(data) < READ_BYTES:
                return

    def close(self) -> None:
        """May be called again."""
        if self._is_open:
            self._is_open = False
            self._unsent.clear()
            with contextlib.suppress(OSError, ValueError):
                self._loop.remove_reader(self._socket.fileno())
                self._loop.remove_writer(self._socket.fileno())
            self._socket.close()

    def _take(self, data: bytes) -> None:
        try:
            answers = self._reader.feed(data)
        except FramingError as error:
            return self._lose(f"the token's process does not speak as it should: {error}")
        for answer in answers:
            if self._is_open:
                self._on_answer(answer)

    def _flush(self) -> None:
        self._is_flush_scheduled = False
        if not self._is_open:
            return
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            return self._lose(f"the token's process can't be reached: {error.strerror}")
        del self._unsent[:sent]
        self._want_to_write(bool(self._unsent))

    def _want_to_write(self, wanted: bool) -> None:
        if wanted and not self._is_writing:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        elif not wanted and self._is_writing:
            self._loop.remove_writer(self._socket.fileno())
        self._is_writing = wanted

    def _lose(self, why: str) -> None:
        self.close()
        self._on_lost(why)
