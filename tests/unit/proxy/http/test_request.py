"""Requests: what is understood, what is refused, and that the cuts between reads do not matter."""

from __future__ import annotations

import itertools
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.errors import HttpReason
from proxy.config.schema import HttpConfig
from proxy.http.framing import Framing
from proxy.http.headers import ForwardedFields
from proxy.http.problem import HttpProblem
from proxy.http.request import Request, RequestParser
from tests.support.hostile_requests import BODIES, HEADS

CONFIG = HttpConfig()
FORWARDED = ForwardedFields("replace", "192.0.2.7", "https", 8443)


def parse(data: bytes, config: HttpConfig = CONFIG) -> Request:
    parser = RequestParser(config)
    parser.feed(data)
    request = parser.read_head()
    assert request is not None
    return request


def pull(parser: RequestParser, events: list[Any]) -> None:
    """Pull all that can be pulled; bodies are joined, because their cuts depend on the reads."""
    while True:
        if parser.is_complete:
            request = parser.read_head()
            if request is None:
                return
            events.append([request.method, request.target, request.host, b"".join(request.fields.kept), b""])
        if not parser.is_complete:
            events[-1][-1] += b"".join(parser.read_body())
            if not parser.is_complete:
                return
            events.append("end")


def test_plain_request_is_understood() -> None:
    request = parse(b"GET /a?b=c HTTP/1.1\r\nHost: Site.test:8443\r\nAccept: */*\r\n\r\n")
    assert (request.method, request.target, request.host) == (b"GET", b"/a?b=c", b"Site.test:8443")
    assert (request.framing, request.keep_alive, request.minor) == (Framing.NONE, True, 1)
    assert request.onward_head(request.host, FORWARDED, b"") == (
        b"GET /a?b=c HTTP/1.1\r\nHost: Site.test:8443\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.7\r\n"
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Host: Site.test:8443\r\n\r\n"
    )


@pytest.mark.parametrize(("name", "data", "status"), HEADS, ids=[name for name, _, _ in HEADS])
def test_hostile_head_is_refused(name: str, data: bytes, status: int) -> None:
    parser = RequestParser(CONFIG)
    parser.feed(data)
    with pytest.raises(HttpProblem) as caught:
        parser.read_head()
    assert caught.value.status == status
    assert parser.has_failed


@pytest.mark.parametrize(("name", "data", "status"), HEADS + BODIES, ids=[name for name, _, _ in HEADS + BODIES])
def test_hostile_request_is_refused_byte_by_byte(name: str, data: bytes, status: int) -> None:
    parser = RequestParser(CONFIG)
    events: list[Any] = []

    def drip() -> None:
        for offset in range(len(data)):
            parser.feed(data[offset : offset + 1])
            pull(parser, events)

    with pytest.raises(HttpProblem) as caught:
        drip()
    assert caught.value.status == status
    assert "end" not in events


@pytest.mark.parametrize(("name", "data", "status"), BODIES, ids=[name for name, _, _ in BODIES])
def test_hostile_body_is_refused(name: str, data: bytes, status: int) -> None:
    parser = RequestParser(CONFIG)
    parser.feed(data)
    assert parser.read_head() is not None
    with pytest.raises(HttpProblem) as caught:
        parser.read_body()
    assert (caught.value.status, caught.value.reason) == (status, HttpReason.BAD_FRAMING)


STREAM = (
    b"\r\nGET /1 HTTP/1.1\r\nHost: a\r\n\r\n"
    b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world"
    b"PUT /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b'5\r\nhello\r\n00A;x=y;z="a;b"\r\n0123456789\r\n0\r\nX-Trailer: dropped\r\n\r\n'
    b"\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\nX-Long: " + b"v" * 300 + b"\r\n\r\n"
    b"DELETE http://b:80?q HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
)
EVENTS = [
    [b"GET", b"/1", b"a", b"", b""],
    [b"POST", b"/2", b"a", b"", b"hello world"],
    "end",
    [b"PUT", b"/3", b"a", b"", b"hello0123456789"],
    "end",
    [b"OPTIONS", b"*", b"a", b"X-Long: " + b"v" * 300 + b"\r\n", b""],
    [b"DELETE", b"/?q", b"b:80", b"Content-Length: 0\r\n", b""],
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    parser = RequestParser(CONFIG)
    events: list[Any] = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in itertools.pairwise(edges):
        parser.feed(STREAM[start:end])
        pull(parser, events)
    assert events == EVENTS


@given(st.binary(max_size=300))
def test_random_bytes_are_refused_or_wait(data: bytes) -> None:
    parser = RequestParser(CONFIG)
    parser.feed(data)
    request = status = None
    try:
        request = parser.read_head()
    except HttpProblem as problem:
        status = problem.status
    assert request is None
    assert status in (None, 400, 505)


class Oracle:
    """What llhttp, another program's parser, sees in the same bytes."""

    def __init__(self) -> None:
        self.url, self.body, self.fields, self.messages = b"", b"", [], 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.strip(b" \t")))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


HOSTILE_BITS = st.lists(
    st.sampled_from(
        [
            *(b"POST ", b"/ ", b"HTTP/1.1", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",", b"\x00"),
            *(b"Host: a\r\n", b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"5", b"0", b"5\r\nhello\r\n"),
            *(b"0\r\n\r\n", b"hello", b"X: y\r\n", b"a=b", b'"', b"Connection: close\r\n", b"\xff"),
        ]
    ),
    max_size=12,
).map(b"".join)


@given(HOSTILE_BITS)
def test_what_we_accept_llhttp_reads_alike(tail: bytes) -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\n" + tail
    parser = RequestParser(CONFIG)
    parser.feed(data)
    try:
        request = parser.read_head()
        if request is None:
            return
        body = b"".join(parser.read_body())
    except HttpProblem:
        return
    if not parser.is_complete:
        return  # nothing was accepted yet: llhttp may refuse an unfinished line earlier
    oracle = Oracle()
    httptools.HttpRequestParser(oracle).feed_data(data[: len(data) - parser.buffered])
    assert (oracle.body, oracle.messages) == (body, 1)
    assert (b"host", b"a") in oracle.fields


def test_limits_have_their_own_statuses() -> None:
    small = HttpConfig(max_header_bytes=1024, max_headers=8, max_target_bytes=64, max_body_bytes=10)
    for data, status in (
        (b"GET /" + b"a" * 64 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 2000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 2000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 8 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", 413),
    ):
        with pytest.raises(HttpProblem) as caught:
            parse(data, small)
        assert caught.value.status == status, data
    assert parse(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 7 + b"\r\n", small).method == b"GET"


def test_chunked_body_is_counted_against_the_limit() -> None:
    parser = RequestParser(HttpConfig(max_body_bytes=10))
    parser.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nsixsix\r\n")
    assert parser.read_head() is not None
    assert parser.read_body() == [b"sixsix"]
    parser.feed(b"6\r\nsixsix\r\n")
    with pytest.raises(HttpProblem) as caught:
        parser.read_body()
    assert caught.value.status == 413


def test_only_websocket_upgrades_go_on() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %b\r\n\r\n"
    assert parse(head % b"WebSocket").upgrade == b"websocket"
    assert parse(head % b"h2c").upgrade == b""
    onward = parse(head % b"h2c").onward_head(b"a", FORWARDED, b"")
    assert b"pgrade" not in onward
    assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in parse(head % b"websocket").onward_head(
        b"a", FORWARDED, b""
    )
    assert parse(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n").upgrade == b""


def test_expectation_is_known_only_with_a_body() -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n"
    assert parse(post).expects_continue
    assert b"Expect: 100-Continue\r\n" in parse(post).onward_head(b"a", FORWARDED, b"")
    assert not parse(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expects_continue


def test_http_1_0_needs_no_host_and_closes_by_default() -> None:
    request = parse(b"GET / HTTP/1.0\r\n\r\n")
    assert (request.host, request.keep_alive, request.minor) == (b"", False, 0)
    assert parse(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").keep_alive
