"""A client's transport with the habits this room needs: joined writes, pausing that may be repeated, progress.

Knows no HTTP. Works on any asyncio.Transport. Never writes to a transport that is closing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence

from proxy.http.progress import unsent_bytes

WRITE_HIGH_WATER_BYTES = 256 * 1024
"""What may wait in the write buffer before the source of the bytes is paused."""
JOIN_BYTES = 16 * 1024
"""Smaller writes are joined, so that a small response is one TLS record."""


class ClientWire:
    """The sending and pausing side of one client connection."""

    __slots__ = ("_is_paused", "_transport", "_unsent")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._is_paused = False
        self._unsent = 0
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport.is_closing()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Send `pieces` in order."""
        transport = self._transport
        if transport.is_closing():
            return
        if len(pieces) == 1:
            transport.write(pieces[0])
        elif sum(map(len, pieces)) <= JOIN_BYTES:
            transport.write(b"".join(pieces))
        else:
            transport.writelines(pieces)

    def pause(self) -> None:
        """Read nothing for now."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    @property
    def has_unsent(self) -> bool:
        """Whether the transport still holds something to be sent; what the kernel has is the kernel's to send."""
        return self._transport.get_write_buffer_size() > 0

    def note_progress(self) -> None:
        """Remember how much is unsent, for `has_progressed`."""
        self._unsent = unsent_bytes(self._transport)

    @property
    def has_progressed(self) -> bool:
        """Whether the client took something since `note_progress`."""
        return unsent_bytes(self._transport) < self._unsent

    def end_writing(self) -> None:
        """Tell the client that nothing follows, where the transport can, while it is still read."""
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def close(self) -> None:
        """Close once everything is sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close now; what is unsent is lost."""
        self._transport.abort()

    def reset(self) -> None:
        """Close now, and so that the client cannot take it for an orderly end (RFC 9112 8)."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
