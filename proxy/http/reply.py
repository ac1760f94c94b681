"""A response as one client gets it: status line, fields, and how its body is delimited for that client. Pure.

HTTP/1.1 clients get what the upstream sent, a close-delimited body as chunks, so that its end is certain and the
connection lives on. HTTP/1.0 clients know no chunks: such a body ends with their connection (RFC 9112 6.3).
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.http.framing import CHUNKED, LENGTH, NONE, UNTIL_CLOSE, Framing
from proxy.http.headers import LAST_CHUNK, chunk, framing_line
from proxy.http.response import Response

CLOSE_LINE = b"Connection: close\r\n"
KEEP_ALIVE_LINE = b"Connection: keep-alive\r\n"
UPGRADE_LINES = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
"""Of a 101: the only protocol that is switched to."""


def client_framing(response: Response, minor: int) -> Framing:
    """Return how the body is delimited towards a client of HTTP/1.`minor`."""
    framing = response.framing
    if framing is LENGTH or framing is NONE:
        return framing
    return CHUNKED if minor else UNTIL_CLOSE


def connection_line(minor: int, *, keeps: bool) -> bytes:
    """Return the Connection field that says whether the connection stays (RFC 9112 9.3)."""
    if keeps:
        return b"" if minor else KEEP_ALIVE_LINE
    return CLOSE_LINE


def response_head(response: Response, framing: Framing, connection: bytes) -> bytes:
    """Return the head; `framing` is that of `client_framing`, `connection` the Connection line."""
    length = response.length
    if framing is LENGTH:
        delimiter = b"Content-Length: %d\r\n" % length
    elif framing is CHUNKED:
        delimiter = framing_line(framing, length)
    elif framing is NONE and length >= 0 and response.status >= 200 and response.status != 204:
        delimiter = b"Content-Length: %d\r\n" % length
    else:
        delimiter = b""  # RFC 9110 8.6: none in 1xx and 204
    return b"".join(
        (
            b"HTTP/1.1 %d %b\r\n" % (response.status, response.phrase),
            *response.fields.kept,
            delimiter,
            connection,
            b"\r\n",
        )
    )


def body_bytes(framing: Framing, parts: Sequence[bytes], *, is_complete: bool) -> list[bytes]:
    """Return the wire form of a piece of body."""
    if framing is not CHUNKED:
        return list(parts)
    pieces = chunk(parts)
    if is_complete:
        pieces.append(LAST_CHUNK)
    return pieces
