"""What a protocol above TLS sees as its transport: plain bytes in and out, with back-pressure both ways.

Writes are encrypted at once and handed to the TCP transport, whose write buffer is the only one: its limits and its
pause_writing/resume_writing are those of this transport. Reads that were decrypted before `pause_reading` took effect
are held (one TCP chunk at most) and delivered after `resume_reading`.

Ends are the connection's business (`connection.py`): `close` and `abort` are passed on to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Protocol

from proxy.base.jobs import CONNECTION_INFO, ConnectionInfo
from proxy.tls.engine import TlsEngine

BATCH_BYTES = 65_536
"""Output that is collected while one chunk of input is handled; more is sent at once."""


class Ends(Protocol):
    """What the transport asks of its connection."""

    def close(self) -> None:
        """Say goodbye, flush and close."""

    def abort(self) -> None:
        """Close at once."""

    def resume_input(self) -> None:
        """Let TCP read again, unless something else is against it."""


class TlsTransport(asyncio.Transport):
    """One established TLS session as an `asyncio.Transport`. Bytes written after the end are dropped silently."""

    __slots__ = (
        "_connection",
        "_engine",
        "_eof_is_held",
        "_held",
        "_info",
        "_is_closing",
        "_is_reading",
        "_loop",
        "_pending_bytes",
        "_protocol",
        "_tcp",
        "is_batching",
    )

    def __init__(
        self,
        connection: Ends,
        tcp: asyncio.Transport,
        engine: TlsEngine,
        protocol: asyncio.Protocol,
        info: ConnectionInfo,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self._connection: Ends | None = connection
        self._tcp = tcp
        self._engine = engine
        self._protocol = protocol
        self._info = info
        self._loop = loop
        self._held: deque[bytes] = deque()
        self._eof_is_held = False
        self._is_reading = True
        self._is_closing = False
        self._pending_bytes = 0
        self.is_batching = False
        """Set while the connection handles input: it flushes afterwards, so that small writes leave together."""

    # asyncio.Transport: writing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypt and send."""
        if self._is_closing or not data:
            return
        self._engine.send(data)
        if self.is_batching:
            self._pending_bytes += len(data)
            if self._pending_bytes < BATCH_BYTES:
                return
        self.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Send several pieces; small ones share a TLS record."""
        self.write(b"".join(list_of_data))

    def flush(self) -> None:
        """Hand what the engine has encrypted to TCP."""
        self._pending_bytes = 0
        chunks = self._engine.chunks_to_send()
        if chunks and not self._tcp.is_closing():
            self._tcp.writelines(chunks)

    def can_write_eof(self) -> bool:
        """False: TLS has close_notify, and that is `close`."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol's pause_writing and resume_writing are called, in bytes of ciphertext."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes of ciphertext that TCP has not taken yet."""
        return self._tcp.get_write_buffer_size() if not self._is_closing else 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high water marks in bytes."""
        return self._tcp.get_write_buffer_limits()

    # asyncio.Transport: reading

    def is_reading(self) -> bool:
        """Whether the protocol wants data."""
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        """Stop `data_received`, and reading from the client."""
        if self._is_reading and not self._is_closing:
            self._is_reading = False
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Go on; held data comes first, from the event loop and not from within this call."""
        if self._is_reading or self._is_closing:
            return
        self._is_reading = True
        if self._held or self._eof_is_held:
            self._loop.call_soon(self._deliver_held)
        elif self._connection is not None:
            self._connection.resume_input()

    def deliver(self, data: bytes) -> None:
        """Called by the connection: plain bytes for the protocol."""
        if self._is_closing:
            return
        if self._is_reading and not self._held:
            self._protocol.data_received(data)
        else:
            self._held.append(data)

    def deliver_eof(self) -> None:
        """Called by the connection: the client sent close_notify."""
        if self._held or not self._is_reading:
            self._eof_is_held = True
        elif not self._is_closing and not self._protocol.eof_received():
            self.close()

    def _deliver_held(self) -> None:
        while self._held and self._is_reading and not self._is_closing:
            self._protocol.data_received(self._held.popleft())
        if self._held or not self._is_reading or self._is_closing:
            return
        if self._eof_is_held:
            self._eof_is_held = False
            self.deliver_eof()
        if self._connection is not None and self._is_reading and not self._is_closing:
            self._connection.resume_input()

    # asyncio.Transport: the end and the rest

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, or the client is gone."""
        return self._is_closing

    def close(self) -> None:
        """Send what was written, then close_notify, then close."""
        if not self._is_closing and self._connection is not None:
            self._connection.close()

    def abort(self) -> None:
        """Close at once; what TCP has not taken is lost."""
        if self._connection is not None:
            self._connection.abort()

    def end(self) -> None:
        """Called by the connection: nothing may be written or delivered any more."""
        self._is_closing = True
        self._connection = None
        self._held.clear()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`CONNECTION_INFO`, or what the TCP transport knows (peername, sockname, socket)."""
        return self._info if name == CONNECTION_INFO else self._tcp.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the session to another protocol, as an upgrade does."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a TLS transport needs an asyncio.Protocol")
        self._protocol = protocol
