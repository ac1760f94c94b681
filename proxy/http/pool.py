"""The connections to one upstream: kept, counted, bounded, given to requests in order of arrival.

`acquire` answers through the waiter, at once where an unused connection is there. Every wait here has an end: a connect
its timeout, a place in the queue its deadline. A connection leaves the count exactly once (`gone`), whoever ends it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

from hsm.shared.addresses import parse_address
from hsm.shared.tasks import Tasks
from proxy.base.errors import HttpReason
from proxy.base.observe import ProxyObserver
from proxy.config.schema import UpstreamConfig
from proxy.http.balance import choose
from proxy.http.problem import HttpProblem
from proxy.http.timer import MovingDeadline
from proxy.http.upstream import UpstreamConnection


class Waiter(Protocol):
    """A request that wants a connection."""

    is_waiting: bool
    """False once it does not want one any more."""
    tried: list[Server]
    """Servers that shall not be asked (again)."""
    wants_fresh: bool
    """No connection that was used before: one of those has just died."""

    def connection_ready(self, connection: UpstreamConnection, server: Server) -> None:
        """Here is one; it must be started, abandoned or closed."""

    def connection_refused(self, problem: HttpProblem, server: Server | None) -> None:
        """There is none: `server` could not be connected to, or (None) no server may be asked."""


class Server:
    """One server of an upstream and the connections to it."""

    __slots__ = ("_config", "_observer", "_pool", "address", "busy", "down_until", "idle", "open")

    def __init__(self, address: str, config: UpstreamConfig, pool: UpstreamPool, observer: ProxyObserver) -> None:
        self.address = address
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        """Connections that exist or are being made."""
        self.busy = 0
        self.down_until = 0.0
        self._config = config
        self._pool = pool
        self._observer = observer

    @property
    def has_room(self) -> bool:
        """Whether an unused connection is there or another may be opened."""
        return bool(self.idle) or self.open < self._config.max_connections

    def take_idle(self) -> UpstreamConnection | None:
        """Return the unused connection that was used last, so that the others can age and go."""
        while self.idle:
            connection = self.idle.pop()
            if connection.is_usable:
                return connection
        return None

    def drop_idle(self) -> None:
        """Close all unused connections."""
        while self.idle:
            self.idle[-1].close()

    def count(self, change: int) -> None:
        """Change the number of open connections."""
        self.open += change
        self._observer.upstream_connections_changed(self._config.name, self.address, self.open)

    def released(self, connection: UpstreamConnection) -> None:
        """See Owner."""
        self.busy -= 1
        self._pool.take_back(self, connection)

    def gone(self, connection: UpstreamConnection) -> None:
        """See Owner."""
        if connection in self.idle:
            self.idle.remove(connection)
        else:
            self.busy -= 1
        self.count(-1)
        self._pool.serve_waiters()


class UpstreamPool:
    """All connections of this worker to one upstream."""

    def __init__(self, config: UpstreamConfig, observer: ProxyObserver) -> None:
        self.config = config
        self.name = config.name
        self.servers = tuple(Server(address, config, self, observer) for address in config.servers)
        self._waiting: OrderedDict[Waiter, float] = OrderedDict()
        self._observer = observer
        self._turn = 0
        self._is_stopped = False
        self._connects = Tasks(observer.task_crashed)

    async def start(self) -> None:
        """Bind to the running loop; connections are made when they are needed."""
        self._loop = asyncio.get_running_loop()
        self._deadline = MovingDeadline(self._loop, self._expire)

    async def stop(self) -> None:
        """Close unused connections, give up those being made and refuse who waits. Used ones belong to exchanges."""
        self._is_stopped = True
        await self._connects.stop()
        for server in self.servers:
            server.drop_idle()
        for waiter in list(self._waiting):
            self._refuse_waiter(waiter, "the proxy is stopping")
        self._deadline.close()

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiting)

    def acquire(self, waiter: Waiter) -> None:
        """Give `waiter` a connection, now or later, or tell it that there is none."""
        if self._is_stopped or len(waiter.tried) >= len(self.servers):
            waiter.connection_refused(_no_server("no server of the upstream can be asked"), None)
        elif self._waiting or not self._assign(waiter):
            self._enqueue(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """`waiter` wants no connection any more."""
        if self._waiting.pop(waiter, None) is not None:
            self._tell_waiting()

    def _assign(self, waiter: Waiter) -> bool:
        self._turn += 1
        server: Server | None
        if len(self.servers) == 1:
            server = self.servers[0]  # however it is marked: there is no other
        else:
            server = choose(self.servers, self._turn, self._loop.time(), waiter.tried)
        if server is None:
            return False
        if waiter.wants_fresh:
            server.drop_idle()
        connection = server.take_idle()
        if connection is None and server.open >= self.config.max_connections:
            return False
        server.busy += 1
        if connection is not None:
            waiter.connection_ready(connection, server)
        else:
            server.count(+1)
            self._connects.start(self._connect(server, waiter), name=f"connect to {server.address}")
        return True

    async def _connect(self, server: Server, waiter: Waiter) -> None:
        connection = UpstreamConnection(self.config, server, self._loop)
        try:
            host, port = parse_address(server.address)
            async with asyncio.timeout(self.config.connect_timeout_s):
                await self._loop.create_connection(lambda: connection, host, port)
        except TimeoutError:
            problem = HttpProblem(504, HttpReason.UPSTREAM_CONNECT_TIMEOUT, "no connection to the upstream in time")
            self._connect_failed(server, connection, waiter, problem)
        except (OSError, ValueError):  # ValueError: a name that can't be encoded for DNS
            problem = HttpProblem(502, HttpReason.UPSTREAM_CONNECT, "the upstream cannot be connected to")
            self._connect_failed(server, connection, waiter, problem)
        except asyncio.CancelledError:
            self._uncount(server, connection)
            if waiter.is_waiting:
                waiter.connection_refused(_no_server("the proxy is stopping"), None)
            raise
        else:
            server.down_until = 0.0
            if waiter.is_waiting and connection.is_usable:
                waiter.connection_ready(connection, server)
            elif waiter.is_waiting:
                # It came up and was closed in the same breath; `gone` has uncounted it.
                waiter.connection_refused(_closed_at_once(), server)
            elif connection.is_usable:
                server.released(connection)

    def _connect_failed(
        self, server: Server, connection: UpstreamConnection, waiter: Waiter, problem: HttpProblem
    ) -> None:
        server.down_until = self._loop.time() + self.config.server_retry_s
        self._uncount(server, connection)
        if waiter.is_waiting:
            waiter.connection_refused(problem, server)
        self.serve_waiters()

    def _uncount(self, server: Server, connection: UpstreamConnection) -> None:
        if connection.was_made:
            connection.abandon()  # given up in the instant it came up: it uncounts itself
            return
        server.busy -= 1
        server.count(-1)

    def take_back(self, server: Server, connection: UpstreamConnection) -> None:
        """An unused connection: the one that waits longest may have it, or it rests."""
        server.idle.append(connection)
        connection.rest()
        if self._waiting:
            self.serve_waiters()
        if self._is_stopped or len(server.idle) > self.config.max_idle_connections:
            server.idle[0].close()  # the one that rests longest

    def serve_waiters(self) -> None:
        """Give free places to those who wait, in order of arrival."""
        while self._waiting and not self._is_stopped:
            waiter = next(iter(self._waiting))
            deadline = self._waiting.pop(waiter)
            if not self._assign(waiter):
                self._waiting[waiter] = deadline
                self._waiting.move_to_end(waiter, last=False)
                return
            self._tell_waiting()

    def _enqueue(self, waiter: Waiter) -> None:
        if len(self._waiting) >= self.config.max_waiting:
            waiter.connection_refused(_no_server("too many requests wait for the upstream"), None)
            return
        if not self._waiting:
            self._deadline.set(self.config.queue_timeout_s)
        self._waiting[waiter] = self._loop.time() + self.config.queue_timeout_s
        self._tell_waiting()

    def _expire(self) -> None:
        now = self._loop.time()
        for waiter, deadline in list(self._waiting.items()):
            if deadline > now + 0.002:
                self._deadline.set(deadline - now)
                return
            self._refuse_waiter(waiter, "no connection to the upstream was free in time")

    def _refuse_waiter(self, waiter: Waiter, detail: str) -> None:
        if self._waiting.pop(waiter, None) is not None:
            self._tell_waiting()
            waiter.connection_refused(_no_server(detail), None)

    def _tell_waiting(self) -> None:
        self._observer.upstream_waiting_changed(self.name, len(self._waiting))


def _no_server(detail: str) -> HttpProblem:
    return HttpProblem(503, HttpReason.UPSTREAM_QUEUE_FULL, detail)


def _closed_at_once() -> HttpProblem:
    return HttpProblem(502, HttpReason.UPSTREAM_CLOSED, "the upstream closed the connection at once")
