"""A TCP relay between the proxy and each node, whose links can be broken in the ways that networks break.

    python -m proxy.chaos.relay SOCKET NAME:LISTEN_PORT:NODE_PORT ...

It passes bytes and knows nothing of what they are. Orders come by a Unix socket, one line each, answered by "ok":

    NODE pass     connections and bytes go through; what was swallowed is lost, so connections that lost bytes get a RST
    NODE cut      every connection gets a RST on both sides, new ones as soon as they come
    NODE reset    every connection gets a RST on both sides once; new ones go through
    NODE swallow  every byte vanishes, nothing is closed; new connections are accepted and never answered
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import cast

import uvloop

from hsm.shared.tasks import Tasks

CONNECT_TIMEOUT_S = 2.0
ORDER_TIMEOUT_S = 5.0
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 seconds: to close sends a RST."""


class Way(Enum):
    """How a node's link is."""

    PASS = "pass"
    CUT = "cut"
    SWALLOW = "swallow"


class Link:
    """The relay to one node: its connections and how they are."""

    def __init__(self, node: str, node_port: int, tasks: Tasks) -> None:
        self.node, self._node_port, self._tasks = node, node_port, tasks
        self.way = Way.PASS
        self.pairs: set[Pair] = set()

    def accept(self) -> End:
        """The protocol of a new connection from the proxy."""
        pair = Pair(self)
        if self.way is Way.PASS:
            self._tasks.start(self._connect(pair), name=f"connect-{self.node}")
        return pair.ends[0]

    async def _connect(self, pair: Pair) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.create_connection(lambda: pair.ends[1], "127.0.0.1", self._node_port)
        except OSError:
            pair.reset()

    def obey(self, order: str) -> None:
        """Carries out one order. Raises ValueError for one that it does not know."""
        if order != "reset":
            before, self.way = self.way, Way(order)
            if self.way is Way.SWALLOW or before is self.way is Way.PASS:
                return
        for pair in list(self.pairs):
            pair.reset()


class Pair:
    """One connection from the proxy and the one to the node that belongs to it."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.ends = End(self), End(self)
        self.is_over = False
        link.pairs.add(self)

    def other(self, end: End) -> End:
        """The other side."""
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def reset(self) -> None:
        """A RST on both sides."""
        self.is_over = True
        self.link.pairs.discard(self)
        for end in self.ends:
            end.reset()


class End(asyncio.Protocol):
    """One side of a pair."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        if self._pair.is_over or self._pair.link.way is Way.CUT:
            self._pair.reset()
            return
        for data in self._early:
            self._transport.write(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self._pair.link.way is not Way.SWALLOW:
            self._pair.other(self).deliver(data)

    def deliver(self, data: bytes) -> None:
        """Passes bytes on to this side's socket."""
        if self._transport is None:
            self._early.append(data)
        elif not self._transport.is_closing():
            self._transport.write(data)

    def pause_writing(self) -> None:
        self._pair.other(self).read(is_wanted=False)

    def resume_writing(self) -> None:
        self._pair.other(self).read(is_wanted=True)

    def read(self, *, is_wanted: bool) -> None:
        """Takes bytes from this side's socket, or leaves them there."""
        if self._transport is not None and not self._transport.is_closing():
            (self._transport.resume_reading if is_wanted else self._transport.pause_reading)()

    def eof_received(self) -> bool:
        """While bytes vanish, so do ends; else the connection ends."""
        return self._pair.link.way is Way.SWALLOW

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pair.is_over or self._pair.link.way is Way.SWALLOW:
            return
        if exc is not None:
            self._pair.reset()
            return
        self._pair.is_over = True
        self._pair.link.pairs.discard(self._pair)
        self._pair.other(self).close()

    def close(self) -> None:
        """An orderly end, after what is still to be written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """A RST, if the connection is still there."""
        if self._transport is None or self._transport.is_closing():
            return
        sock = cast("socket.socket | None", self._transport.get_extra_info("socket"))
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


async def _take_orders(links: dict[str, Link], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            node, _, order = line.decode("utf-8", "replace").strip().partition(" ")
            try:
                links[node].obey(order)
                answer = "ok"
            except (KeyError, ValueError):
                answer = f"unknown order {line!r}"
            writer.write(f"{answer}\n".encode())
    finally:
        writer.close()


async def serve(socket_path: Path, routes: Sequence[str]) -> None:
    """Relays until SIGTERM. Raises ValueError for a route that is none, OSError for a port or socket in use."""
    loop, tasks, stop = asyncio.get_running_loop(), Tasks(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    links: dict[str, Link] = {}
    servers: list[asyncio.AbstractServer] = []
    try:
        for route in routes:
            name, listen_port, node_port = route.split(":")
            links[name] = link = Link(name, int(node_port), tasks)
            servers.append(await loop.create_server(link.accept, "127.0.0.1", int(listen_port)))
        servers.append(await asyncio.start_unix_server(lambda r, w: _take_orders(links, r, w), str(socket_path)))
        await stop.wait()
    finally:
        for server in servers:
            server.close()
        for link in links.values():
            for pair in list(link.pairs):
                pair.reset()
        await tasks.stop()


async def order(socket_path: Path, node: str, what: str) -> None:
    """Has a running relay carry out one order. Raises OSError, also for an order that it does not know."""
    async with asyncio.timeout(ORDER_TIMEOUT_S):
        reader, writer = await asyncio.open_unix_connection(str(socket_path))
        try:
            writer.write(f"{node} {what}\n".encode())
            answer = (await reader.readline()).decode().strip()
        finally:
            writer.close()
    if answer != "ok":
        raise OSError(f"the relay did not obey {what!r} for {node}: {answer or 'it ended'}")


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), sys.argv[2:]))
