"""The factory: routes by host and TLS site, and ends in order."""

from __future__ import annotations

import pytest

from proxy.base.jobs import ConnectionInfo
from proxy.base.observe import ProxyObserver
from proxy.config.schema import HttpConfig, SiteConfig, UpstreamConfig
from proxy.http.factory import HttpFactory
from proxy.http.problem import HttpProblem
from tests.support.http_play import answer_ok, play, read_head, until

UPSTREAMS = [UpstreamConfig(name="web", servers=("127.0.0.1:1",))]


def site(*names: str, default: bool = False) -> SiteConfig:
    return SiteConfig(names=names, certificates=("unused.pem",), upstream="web", default=default)


def info(site: str, server_name: str = "") -> ConnectionInfo:
    return ConnectionInfo(
        "192.0.2.1", 5, "192.0.2.2", 443, "https", site, server_name, "TLSv1.3", "", "http/1.1", False
    )


def factory(*sites: SiteConfig) -> HttpFactory:
    return HttpFactory(sites, UPSTREAMS, HttpConfig(via="edge"), ProxyObserver())


def test_host_decides_on_plain_connections() -> None:
    routes = factory(site("a.test"), site("b.test", "*.b.test"))
    assert routes.route(b"x.b.test:80", None)[::2] == ("b.test", b"x.b.test:80")
    assert routes.via == b"Via: 1.1 edge\r\n"
    with pytest.raises(HttpProblem) as caught:
        routes.route(b"c.test", None)
    assert caught.value.status == 421


@pytest.mark.parametrize(
    ("host", "tls_site", "is_served"),
    [
        (b"a.test", "a.test", True),
        (b"b.test", "a.test", False),
        (b"a.test", "b.test", False),
        (b"unknown.test", "a.test", True),
        (b"unknown.test", "b.test", False),
    ],
)
def test_host_must_belong_to_the_site_of_the_session(host: bytes, tls_site: str, is_served: bool) -> None:
    routes = factory(site("a.test", default=True), site("b.test"))
    if is_served:
        assert routes.route(host, info(tls_site))[0] == tls_site
        return
    with pytest.raises(HttpProblem) as caught:
        routes.route(host, info(tls_site))
    assert caught.value.status == 421


def test_http_1_0_without_host_gets_the_session_s_name() -> None:
    routes = factory(site("a.test", default=True), site("*.b.test"))
    assert routes.route(b"", info("*.b.test", "x.b.test"))[::2] == ("*.b.test", b"x.b.test")
    assert routes.route(b"", info("*.b.test"))[::2] == ("*.b.test", b"b.test")
    assert routes.route(b"", None)[::2] == ("a.test", b"a.test")


async def test_misdirected_request_gets_421_on_a_connection_that_lives() -> None:
    async with play(answer_ok) as running:
        running.factory._names._default = ""
        reader, writer = await running.connect()
        for method in (b"GET", b"HEAD", b"HEAD"):
            writer.write(method + b" / HTTP/1.1\r\nHost: unknown.test\r\n\r\n")
            head = await read_head(reader)
            assert head.startswith(b"HTTP/1.1 421 Misdirected Request\r\n")
            if method == b"GET":
                await reader.readuntil(b"\n")
        assert running.origin.visits == 0


async def test_connection_that_opens_during_a_drain_is_closed() -> None:
    async with play(answer_ok) as running:
        running.factory.drain()
        assert await running.ask(b"") == b""
        await until(lambda: running.factory.active == 0)
