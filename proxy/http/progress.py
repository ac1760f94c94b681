"""How much of what was written a peer has not taken yet, the kernel's queue included.

A transport's own buffer says little about a slow peer: the kernel takes megabytes in one go and then nothing for
minutes while the peer reads steadily. Deadlines for a peer that takes nothing compare two readings of this.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Return bytes in the transport's buffer and, where its socket is known, those the peer has not acknowledged."""
    waiting = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    if socket is None:
        return waiting
    try:
        reply = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    except (OSError, ValueError):
        return waiting  # closed, or no TCP socket
    (queued,) = struct.unpack("i", reply)
    return waiting + int(queued)
