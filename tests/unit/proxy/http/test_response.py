"""Responses: read off any cuts, refused when malformed."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.framing import Framing
from proxy.http.problem import HttpProblem
from proxy.http.response import MAX_INTERIM_RESPONSES, ResponseParser, read_response

STREAM = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_cuts_do_not_matter(cuts: list[int]) -> None:
    parser = ResponseParser(1024)
    parser.expect(to_head=False)
    statuses, body = [], b""
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        parser.feed(STREAM[start:end])
        while not parser.has_head and (response := parser.read_head()) is not None:
            statuses.append(response.status)
        body += b"".join(parser.read_body())
    assert (statuses, body, parser.is_complete, parser.has_rest) == ([100, 103, 200], b"body", True, False)


def test_bytes_behind_a_response_are_seen() -> None:
    parser = ResponseParser(1024)
    parser.expect(to_head=False)
    parser.feed(b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 Smuggled\r\n\r\n")
    response = parser.read_head()
    assert response is not None
    assert (response.status, parser.is_complete, parser.has_rest) == (204, True, True)


def test_head_and_close_framing() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    assert read_response(head, to_head=True).framing is Framing.NONE
    assert read_response(head, to_head=True).length == 9
    until_close = read_response(b"HTTP/1.1 200 OK\r\n\r\n", to_head=False)
    assert (until_close.framing, until_close.keep_alive) == (Framing.UNTIL_CLOSE, False)


def test_end_of_stream() -> None:
    for head, is_whole in ((b"\r\n", True), (b"Content-Length: 5\r\n\r\n", False)):
        parser = ResponseParser(1024)
        parser.expect(to_head=False)
        assert not parser.end_of_stream()
        parser.feed(b"HTTP/1.1 200 OK\r\n" + head + b"abc")
        parser.read_head()
        parser.read_body()
        assert parser.end_of_stream() is is_whole


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 2000,
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
    ],
)
def test_malformed_head_is_refused(data: bytes) -> None:
    parser = ResponseParser(1024)
    parser.expect(to_head=False)
    parser.feed(data)
    with pytest.raises(HttpProblem) as caught:
        parser.read_head()
    assert caught.value.status == 502


def test_interim_responses_are_bounded() -> None:
    parser = ResponseParser(1024)
    parser.expect(to_head=False)
    parser.feed(b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM_RESPONSES + 1))
    for _ in range(MAX_INTERIM_RESPONSES):
        assert parser.read_head() is not None
    with pytest.raises(HttpProblem, match="without end"):
        parser.read_head()


class Oracle:
    """What llhttp, another program's parser, sees in the same bytes."""

    def __init__(self) -> None:
        self.body, self.messages = b"", 0

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


BITS = st.lists(
    st.sampled_from(
        [
            *(b"Content-Length: ", b"Transfer-Encoding: ", b"chunked", b"5", b"0", b"\r\n", b"\r\n\r\n", b"\n", b" "),
            *(b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"X: y\r\n", b";a=b", b"\t", b"\x00", b",", b"\xff", b"\r"),
        ]
    ),
    max_size=12,
).map(b"".join)


@given(BITS)
def test_what_we_accept_llhttp_reads_alike(tail: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nServer: x\r\n" + tail
    parser = ResponseParser(1024)
    parser.expect(to_head=False)
    parser.feed(data)
    try:
        response = parser.read_head()
        if response is None:
            return
        body = b"".join(parser.read_body())
    except HttpProblem:
        return
    if not parser.is_complete:
        return  # nothing was accepted yet: llhttp may refuse an unfinished line earlier
    oracle = Oracle()
    httptools.HttpResponseParser(oracle).feed_data(data[: len(data) - len(parser.take_rest())])
    assert (oracle.body, oracle.messages) == (body, 1)
