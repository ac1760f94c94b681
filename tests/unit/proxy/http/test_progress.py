"""What a peer has not taken is seen in the kernel's queue, too."""

from __future__ import annotations

import asyncio
import socket

from proxy.http.progress import unsent_bytes
from tests.support.http_play import until


async def test_queue_of_the_kernel_counts() -> None:
    left, right = socket.socketpair(socket.AF_UNIX)
    right.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
    assert unsent_bytes(transport) == 0
    transport.write(b"x" * 1000)
    assert transport.get_write_buffer_size() == 0
    assert unsent_bytes(transport) >= 1000
    right.recv(1000)
    await until(lambda: unsent_bytes(transport) == 0)
    transport.close()
    right.close()
    await asyncio.sleep(0)
    assert unsent_bytes(transport) == 0
