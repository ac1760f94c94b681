"""How one client gets a response."""

from __future__ import annotations

import pytest

from proxy.http.framing import Framing
from proxy.http.reply import CLOSE_LINE, KEEP_ALIVE_LINE, body_bytes, client_framing, connection_line, response_head
from proxy.http.response import read_response


@pytest.mark.parametrize(
    ("fields", "minor", "expected"),
    [
        (b"Content-Length: 5\r\n", 1, Framing.LENGTH),
        (b"Content-Length: 5\r\n", 0, Framing.LENGTH),
        (b"Transfer-Encoding: chunked\r\n", 1, Framing.CHUNKED),
        (b"Transfer-Encoding: chunked\r\n", 0, Framing.UNTIL_CLOSE),
        (b"", 1, Framing.CHUNKED),
        (b"", 0, Framing.UNTIL_CLOSE),
        (b"Content-Length: 0\r\n", 1, Framing.NONE),
    ],
)
def test_client_framing(fields: bytes, minor: int, expected: Framing) -> None:
    response = read_response(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", to_head=False)
    assert client_framing(response, minor) is expected


@pytest.mark.parametrize(
    ("head", "to_head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", False, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", False, b"HTTP/1.1 204 No\r\n\r\n"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n", True, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", True, b"HTTP/1.1 200 OK\r\n\r\n"),
    ],
)
def test_heads_without_body(head: bytes, to_head: bool, expected: bytes) -> None:
    assert response_head(read_response(head, to_head=to_head), Framing.NONE, b"") == expected


def test_connection_lines() -> None:
    assert connection_line(1, keeps=True) == b""
    assert connection_line(0, keeps=True) == KEEP_ALIVE_LINE
    assert connection_line(1, keeps=False) == connection_line(0, keeps=False) == CLOSE_LINE


def test_body_bytes() -> None:
    assert body_bytes(Framing.LENGTH, [b"a"], is_complete=True) == [b"a"]
    assert b"".join(body_bytes(Framing.CHUNKED, [b"a"], is_complete=True)) == b"1\r\na\r\n0\r\n\r\n"
    assert body_bytes(Framing.CHUNKED, [], is_complete=False) == []
