"""A proxy on plain TCP between a scripted web server and a raw client, for tests of `proxy/http`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from proxy.base.errors import HttpReason
from proxy.base.observe import ProxyObserver
from proxy.config.schema import HttpConfig, SiteConfig, UpstreamConfig
from proxy.http.factory import HttpFactory

Handler = Callable[["Visit"], Awaitable[None]]
PATIENCE_S = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n"


class RecordingObserver(ProxyObserver):
    """Remembers what it heard."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, str, str, int, int, int]] = []
        self.failed: list[tuple[HttpReason, int]] = []
        self.attempts: list[tuple[str, HttpReason | None]] = []
        self.open: dict[str, int] = {}
        self.waiting: list[int] = []
        self.crashes: list[str] = []

    def request_finished(
        self, site: str, upstream: str, method: str, status: int, duration_s: float, bytes_in: int, bytes_out: int
    ) -> None:
        self.finished.append((site, upstream, method, status, bytes_in, bytes_out))

    def request_failed(self, site: str, upstream: str, reason: HttpReason, status: int) -> None:
        self.failed.append((reason, status))

    def upstream_attempted(self, upstream: str, server: str, reason: HttpReason | None, duration_s: float) -> None:
        self.attempts.append((server, reason))

    def upstream_waiting_changed(self, upstream: str, waiting: int) -> None:
        self.waiting.append(waiting)

    def upstream_connections_changed(self, upstream: str, server: str, open_connections: int) -> None:
        self.open[server] = open_connections

    def task_crashed(self, name: str) -> None:
        self.crashes.append(name)


class Visit:
    """One connection to a scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader, self.writer, self.number = reader, writer, number

    async def head(self) -> bytes:
        """Read one request head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def body(self, size: int) -> bytes:
        return await self.reader.readexactly(size)

    def send(self, data: bytes) -> None:
        self.writer.write(data)


class Origin:
    """A scripted web server: `handler` plays each connection."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.visits = 0
        self.errors: list[BaseException] = []
        self.open = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        self.open += 1
        try:
            await self._handler(Visit(reader, writer, self.visits))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            self.open -= 1
            writer.close()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()


class Play:
    """A running proxy and its scripted servers."""

    def __init__(self, factory: HttpFactory, port: int, observer: RecordingObserver, origins: list[Origin]) -> None:
        self.factory, self.port, self.observer, self.origins = factory, port, observer, origins
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def origin(self) -> Origin:
        return self.origins[0]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """Send `data` and return everything until the proxy closes."""
        reader, writer = await self.connect()
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(-1), PATIENCE_S)
        finally:
            writer.close()

    def close_clients(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def play(
    *handlers: Handler, http: dict[str, Any] | None = None, upstream: dict[str, Any] | None = None
) -> AsyncIterator[Play]:
    """Run the proxy before one scripted server per handler; `http` and `upstream` are config fields."""
    origins = [Origin(handler) for handler in handlers]
    for origin in origins:
        await origin.start()
    observer = RecordingObserver()
    servers = tuple((upstream or {}).get("servers", ())) or tuple(origin.address for origin in origins)
    upstream_config = msgspec.structs.replace(UpstreamConfig(name="web", servers=servers), **(upstream or {}))
    upstream_config = msgspec.structs.replace(upstream_config, servers=servers)
    sites = [
        SiteConfig(names=("site.test", "127.0.0.1"), certificates=("unused.pem",), upstream="web", default=True),
        SiteConfig(names=("other.test", "*.wild.test"), certificates=("unused.pem",), upstream="web"),
    ]
    factory = HttpFactory(sites, [upstream_config], HttpConfig(**(http or {})), observer)
    await factory.start()
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    running = Play(factory, server.sockets[0].getsockname()[1], observer, origins)
    try:
        yield running
    finally:
        running.close_clients()
        server.close()
        await factory.stop()
        for origin in origins:
            await origin.stop()
        await until(lambda: factory.active == 0 and not any(origin.open for origin in origins))
    assert [error for origin in origins for error in origin.errors] == []
    assert observer.crashes == []
    assert all(count == 0 for count in observer.open.values()), observer.open
    for pool in factory.pools.values():
        assert [(server.open, server.busy, server.idle) for server in pool.servers] == [(0, 0, [])] * len(pool.servers)
        assert pool.waiting == 0


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    deadline = asyncio.get_running_loop().time() + patience_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)


async def read_exactly(reader: asyncio.StreamReader, size: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(size), PATIENCE_S)


async def answer_ok(visit: Visit) -> None:
    """A server that answers every bodiless request with `OK`."""
    while True:
        await visit.head()
        visit.send(OK)
