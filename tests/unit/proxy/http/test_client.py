"""Phases and deadlines of a client connection, on a transport that only remembers."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.base.observe import ProxyObserver
from proxy.config.schema import HttpConfig, SiteConfig, UpstreamConfig
from proxy.http.client import Phase
from proxy.http.factory import HttpFactory
from proxy.http.server import HttpProtocol
from tests.support.http_play import until

CONFIG = HttpConfig(send_timeout_s=0.05, linger_timeout_s=0.05, keepalive_timeout_s=0.05, header_timeout_s=0.05)


class Wire(asyncio.Transport):
    """A transport whose peer takes nothing unless told."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        self.sent = b""
        self.unsent = 0
        self.is_closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.did.append("eof")

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True
        self.did.append("close")

    def abort(self) -> None:
        self.is_closed = True
        self.did.append("abort")


async def connected() -> tuple[HttpProtocol, Wire, HttpFactory]:
    upstream = UpstreamConfig(name="web", servers=("127.0.0.1:1",))
    site = SiteConfig(names=("a.test",), certificates=("unused.pem",), upstream="web", default=True)
    factory = HttpFactory([site], [upstream], CONFIG, ProxyObserver())
    await factory.start()
    connection, wire = factory(), Wire()
    connection.connection_made(wire)
    return connection, wire, factory


async def end(connection: HttpProtocol, factory: HttpFactory) -> None:
    connection.connection_lost(None)
    await factory.stop()
    assert factory.active == 0


async def test_idle_connection_closes_and_an_unsent_rest_does_not_keep_it() -> None:
    connection, wire, factory = await connected()
    wire.unsent = 10
    await until(lambda: wire.did == ["close", "abort"])
    await end(connection, factory)


async def test_closing_waits_as_long_as_the_client_takes_something() -> None:
    connection, wire, factory = await connected()
    wire.unsent = 1000
    for _ in range(5):
        await until(lambda: connection._phase is Phase.CLOSING)
        wire.unsent -= 100
        await asyncio.sleep(0.03)
    assert wire.did == ["close"]
    await until(lambda: wire.did == ["close", "abort"])
    await end(connection, factory)


async def test_refused_head_lingers_then_closes() -> None:
    connection, wire, factory = await connected()
    connection.data_received(b"nonsense\r\n\r\n")
    assert connection._phase is Phase.LINGER
    assert wire.did == ["eof"]
    assert wire.sent.startswith(b"HTTP/1.1 400 ")
    sent = wire.sent
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert wire.sent == sent, "nothing is answered while lingering"
    await until(lambda: wire.did[:2] == ["eof", "close"])
    await end(connection, factory)


async def test_head_that_drips_is_late() -> None:
    connection, wire, factory = await connected()
    for byte in b"GET / HTTP/1.1":
        connection.data_received(bytes([byte]))
    await until(lambda: wire.sent.startswith(b"HTTP/1.1 408 "))
    await end(connection, factory)


async def test_end_of_a_client_s_stream_is_its_leaving() -> None:
    connection, _, factory = await connected()
    connection.data_received(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
    assert connection._phase is Phase.EXCHANGE
    connection.eof_received()
    assert connection._exchange is None
    assert factory.pools["web"].waiting == 0
    await end(connection, factory)


async def test_drain_spares_a_request_that_has_begun() -> None:
    connection, wire, factory = await connected()
    connection.data_received(b"GET / HT")
    factory.drain()
    assert wire.did == []
    await end(connection, factory)
