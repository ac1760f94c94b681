"""The listener of a node: its connections, their limits and timeouts, and draining.

It decides nothing about requests. One sweep a second looks for connections whose time is up; one callback per loop
iteration flushes all connections that have answers.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable

from hsm.node.channel import ChannelError
from hsm.node.config import ListenConfig
from hsm.node.connection import NodeConnection
from hsm.node.line_budget import LineBudget
from hsm.node.observe import ConnectionEnd, NodeObserver
from hsm.node.service import Service
from hsm.shared.addresses import format_address, parse_address
from hsm.shared.exposition import ListenError
from hsm.shared.logs import get_logger

MAX_SWEEP_INTERVAL_S = 1.0
DRAIN_POLL_S = 0.01
LINGER_S = 0.1
"""After the last answer of a drain: requests that were on their way still get DRAINING rather than a closed link."""
CLOSE_TIMEOUT_S = 0.5


class Server:
    """Accepts proxies and serves them through `service`."""

    def __init__(
        self,
        service: Service,
        context: ssl.SSLContext,
        limits: ListenConfig,
        observer: NodeObserver,
        loop: asyncio.AbstractEventLoop,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.service = service
        self.context = context
        self.limits = limits
        self.now = now
        self._observer = observer
        self.loop = loop
        self._log = get_logger("node")
        self._failure_lines = LineBudget()
        self._connections: set[NodeConnection] = set()
        self._handshaking: dict[NodeConnection, None] = {}
        """Those of them that have not shown a certificate yet, oldest first."""
        self._dirty: list[NodeConnection] = []
        self._listener: asyncio.Server | None = None
        self._sweep_timer: asyncio.TimerHandle | None = None
        timeouts = (limits.handshake_timeout_s, limits.idle_timeout_s, limits.send_timeout_s)
        self._sweep_interval_s = min(MAX_SWEEP_INTERVAL_S, min(timeouts) / 4)

    async def start(self) -> str:
        """Listens; returns the real address. Raises ListenError with a sentence."""
        host, port = parse_address(self.limits.address)
        try:
            self._listener = await self.loop.create_server(
                lambda: NodeConnection(self), host, port, backlog=self.limits.backlog
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError(
                f"can't listen on {self.limits.address}: {reason}; is another program using it?"
            ) from None
        self._sweep_timer = self.loop.call_later(self._sweep_interval_s, self._sweep)
        return format_address(*self._listener.sockets[0].getsockname()[:2])

    @property
    def is_listening(self) -> bool:
        """Whether new connections are accepted."""
        return self._listener is not None

    @property
    def open_connections(self) -> int:
        """Connections open now, those in their handshake included."""
        return len(self._connections)

    # what connections tell

    def opened(self, connection: NodeConnection) -> bool:
        """A connection was made; False where there is no room for it.

        Whoever is slow to show a certificate gives way first: strangers must not be able to keep proxies out.
        """
        if len(self._connections) >= self.limits.max_connections:
            if not self._handshaking:
                return False
            oldest = next(iter(self._handshaking))
            self._forget(oldest)
            oldest.cut(ConnectionEnd.GAVE_WAY)
        self._connections.add(connection)
        self._handshaking[connection] = None
        self._observer.connection_opened()
        return True

    def connected(self, connection: NodeConnection, identity: str, version: str, duration_s: float) -> None:
        """The peer's identity is verified."""
        self._handshaking.pop(connection, None)
        self._observer.handshake_done(version, duration_s)
        self._log.info("client_connected", client=identity, peer=connection.peer, tls=version)
        if self.service.is_draining:
            connection.announce_draining()

    def failed(self, connection: NodeConnection, reason: ConnectionEnd, detail: str) -> None:
        """A connection ends because of what its peer did."""
        left_out = self._failure_lines.take(self.now())
        if left_out is not None:
            self._log.warning(
                "connection_failed", peer=connection.peer, reason=reason.value, detail=detail, left_out=left_out
            )

    def closed(self, connection: NodeConnection, reason: ConnectionEnd) -> None:
        """A connection is gone."""
        self._forget(connection)
        self._observer.connection_ended(reason)
        if connection.is_connected:
            self._log.info("client_disconnected", peer=connection.peer, reason=reason.value)

    def flush_soon(self, connection: NodeConnection) -> None:
        """Has the connection's answers written once the current callbacks are through."""
        if connection.is_dirty:
            return
        connection.is_dirty = True
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(connection)

    # what the node wants

    def announce_keys(self, revision: int) -> None:
        """The node's keys changed."""
        for connection in self._connections:
            connection.announce_keys(revision)

    async def drain(self, timeout_s: float) -> bool:
        """Accepts no more, finishes what was taken, then closes. False where time ran out and work was cut."""
        deadline = self.now() + timeout_s
        self.service.drain()
        self._stop_listening()
        for connection in self._connections:
            connection.announce_draining()
        is_done = await self._wait(self._is_quiet, deadline)
        if is_done and self._connections:
            await self._wait(lambda: not self._connections, min(deadline, self.now() + LINGER_S))
        return is_done

    async def stop(self) -> None:
        """Closes every connection, and cuts those whose peers don't read. May be called again."""
        self._stop_listening()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in tuple(self._connections):
            connection.close(ConnectionEnd.STOPPED)
        if not await self._wait(lambda: not self._connections, self.now() + CLOSE_TIMEOUT_S):
            for connection in tuple(self._connections):
                connection.abort()
            await self._wait(lambda: not self._connections, self.now() + CLOSE_TIMEOUT_S)

    def _is_quiet(self) -> bool:
        return self.service.open_requests == 0 and not any(c.has_unsent_bytes for c in self._connections)

    def _forget(self, connection: NodeConnection) -> None:
        self._connections.discard(connection)
        self._handshaking.pop(connection, None)

    async def _wait(self, is_done: Callable[[], bool], deadline: float) -> bool:
        while not is_done():
            if self.now() >= deadline:
                return False
            await asyncio.sleep(DRAIN_POLL_S)
        return True

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            try:
                connection.flush()
            except ChannelError as error:
                self.failed(connection, ConnectionEnd.TLS, str(error))
                connection.cut(ConnectionEnd.TLS)

    def _sweep(self) -> None:
        now = self.now()
        for connection in tuple(self._connections):
            if (reason := connection.overdue(now)) is not None:
                self.failed(connection, reason, "its time is up")
                connection.cut(reason)
        self._sweep_timer = self.loop.call_later(self._sweep_interval_s, self._sweep)
