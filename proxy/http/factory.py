"""Puts the room together: sites to upstream pools, a protocol per client connection, and the orderly end of all.

The factory is called by a listener for every connection. It is the `Routes` its connections ask. Pools belong to the
event loop that `start` runs in; a worker has one factory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from proxy.base.errors import HttpReason
from proxy.base.jobs import ConnectionInfo
from proxy.base.observe import ProxyObserver
from proxy.config.schema import HttpConfig, SiteConfig, UpstreamConfig
from proxy.http.authority import SiteNames
from proxy.http.client import ClientConnection
from proxy.http.pool import UpstreamPool
from proxy.http.problem import HttpProblem
from proxy.http.server import HttpProtocol


class HttpFactory:
    """Makes an HttpProtocol per client connection. `start` before the first, `drain` and `stop` at the end."""

    def __init__(
        self,
        sites: Sequence[SiteConfig],
        upstreams: Sequence[UpstreamConfig],
        config: HttpConfig,
        observer: ProxyObserver,
    ) -> None:
        self.config = config
        self.observer = observer
        self.via = f"Via: 1.1 {config.via}\r\n".encode("ascii") if config.via else b""
        self.pools = {upstream.name: UpstreamPool(upstream, observer) for upstream in upstreams}
        default = next((site.name for site in sites if site.default), "")
        self._names = SiteNames([(site.name, site.names) for site in sites], default)
        self._pool_of = {site.name: self.pools[site.upstream] for site in sites}
        self._connections: set[ClientConnection] = set()
        self._is_draining = False

    def __call__(self) -> HttpProtocol:
        return HttpProtocol(self, self._loop)

    async def start(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()
        for pool in self.pools.values():
            await pool.start()

    @property
    def active(self) -> int:
        """Client connections that are open."""
        return len(self._connections)

    def drain(self) -> None:
        """Close idle connections; others close after the response under way. Watch `active` for the end."""
        self._is_draining = True
        for connection in list(self._connections):
            connection.drain()

    async def stop(self) -> None:
        """Cut what is left and close all connections to upstreams."""
        for connection in list(self._connections):
            connection.abort()
        for pool in self.pools.values():
            await pool.stop()

    def opened(self, connection: ClientConnection) -> None:
        """See Routes."""
        self._connections.add(connection)
        if self._is_draining:
            connection.drain()

    def closed(self, connection: ClientConnection) -> None:
        """See Routes."""
        self._connections.discard(connection)

    def route(self, host: bytes, info: ConnectionInfo | None) -> tuple[str, UpstreamPool, bytes]:
        """See Routes. A host of another site than the TLS session's gets 421 (RFC 9110 7.4, 15.5.20)."""
        if not host:
            # HTTP/1.0 without Host: the session's name is all there is to go by.
            name = info.server_name or info.site if info is not None else self._names.find_default()
            host = name.encode("ascii", "replace").removeprefix(b"*.")
            site = info.site if info is not None else name
        else:
            site = self._names.find(host)
        pool = self._pool_of.get(site)
        if pool is None or (info is not None and site != info.site):
            raise HttpProblem(421, HttpReason.BAD_HOST, "this connection does not serve the requested host")
        return site, pool, host
