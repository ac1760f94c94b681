"""Accepts clients on a socket that is bound already, counts them, and drains them.

The socket belongs to the master and is shared with later workers of the same slot: closing the server here ends only
this worker's part in it.
"""

from __future__ import annotations

import asyncio
import socket

from proxy.edge.connection import EdgeConnection
from proxy.edge.deadlines import Deadlines
from proxy.edge.greeting import Doorway
from proxy.edge.limits import ConnectionBudget
from proxy.edge.shared import EdgeServices, EdgeTimes


class EdgeListener:
    """One listening socket and the connections that came in through it."""

    def __init__(
        self,
        name: str,
        services: EdgeServices,
        times: EdgeTimes,
        *,
        max_connections: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = name
        self.services = services
        self.times = times
        self.loop = loop
        self.budget = ConnectionBudget(max_connections)
        self.doorway = Doorway(name, services)
        self.connections: set[EdgeConnection] = set()
        self.handshakes: Deadlines[EdgeConnection] = Deadlines(
            loop, times.handshake_s, EdgeConnection.handshake_expired
        )
        self.lingering: Deadlines[EdgeConnection] = Deadlines(loop, times.linger_s, EdgeConnection.linger_expired)
        self._server: asyncio.Server | None = None
        self._emptied: asyncio.Event | None = None

    async def start(self, bound: socket.socket, backlog: int) -> None:
        """Accept on `bound`. It stays the caller's: a duplicate is used."""
        own = bound.dup()
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit it
        own.setblocking(False)
        self._server = await self.loop.create_server(lambda: EdgeConnection(self), sock=own, backlog=backlog)

    def stop_accepting(self) -> None:
        """Take no new clients; those that are here stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, close clients that have not said a word, wait for the others, then cut them.

        Returns how many were cut. Protocols above are told by whoever made them.
        """
        self.stop_accepting()
        for connection in [each for each in self.connections if each.is_silent]:
            connection.abort()
        if await self._wait_until_empty(timeout_s):
            return 0
        remaining = len(self.connections)
        self.cut_all()
        await self._wait_until_empty(1.0)
        return remaining

    def cut_all(self) -> None:
        """Close every connection now."""
        for connection in list(self.connections):
            connection.cut()

    def close(self) -> None:
        """Forget the timers. For the very end, after `drain`."""
        self.stop_accepting()
        self.handshakes.close()
        self.lingering.close()

    # for connections

    def admit(self, connection: EdgeConnection) -> bool:
        """Whether there is room for one more; then it is counted."""
        if not self.budget.try_take():
            self.services.observer.connection_refused(self.name)
            return False
        self.connections.add(connection)
        self.services.observer.connection_opened(self.name)
        return True

    def release(self, connection: EdgeConnection) -> None:
        """A connection that was admitted is gone."""
        self.handshakes.stop(connection)
        self.lingering.stop(connection)
        self.connections.discard(connection)
        self.budget.release()
        self.services.observer.connection_closed(self.name)
        if not self.connections and self._emptied is not None:
            self._emptied.set()

    async def _wait_until_empty(self, timeout_s: float) -> bool:
        if not self.connections:
            return True
        self._emptied = asyncio.Event()
        try:
            await asyncio.wait_for(self._emptied.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
