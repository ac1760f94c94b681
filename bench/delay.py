"""A TCP relay that delivers every byte later: it stands between proxy and node and makes signatures slow.

    python -m bench.delay LISTEN_PORT TARGET_PORT DELAY_MS

Half of the delay is added in each direction; the order of bytes is kept and any number may be under way. It knows
nothing of TLS, so what passes is the real link.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class Relay(asyncio.Protocol):
    """One direction's end; `peer` is the other end."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.peer: Relay | None = None
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        for data in self.early:
            self.transport.write(data)
        self.early.clear()

    def data_received(self, data: bytes) -> None:
        if self.peer is None:
            return
        if self.delay_s == 0:
            self.peer.deliver(data)
        else:
            asyncio.get_running_loop().call_later(self.delay_s, self.peer.deliver, data)

    def deliver(self, data: bytes) -> None:
        """Passes bytes on to this end's socket."""
        if self.transport is None:
            self.early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()


async def serve(listen_port: int, target_port: int, delay_s: float) -> None:
    """Relays until it is killed."""
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[object]] = set()

    def accept() -> Relay:
        inner, outer = Relay(delay_s / 2), Relay(delay_s / 2)
        inner.peer, outer.peer = outer, inner
        task = asyncio.create_task(loop.create_connection(lambda: outer, "127.0.0.1", target_port))
        pending.add(task)
        task.add_done_callback(pending.discard)
        return inner

    server = await loop.create_server(accept, "127.0.0.1", listen_port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1e3))
