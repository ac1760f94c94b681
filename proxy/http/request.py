"""Requests as we understood them, and the parser that reads them off a client's bytes. Sans-IO.

The parser is pulled: `feed` bytes, then `read_head` until it gives a request, then `read_body` until `is_complete`,
then `read_head` again. What was not pulled stays in it, which is how pipelining stays in order. Any split of the bytes
gives the same requests (RFC 9112 2.2). Problems are raised as HttpProblem and end the connection.
"""

from __future__ import annotations

import msgspec

from proxy.base.errors import HttpReason
from proxy.config.schema import HttpConfig
from proxy.http.authority import read_authority
from proxy.http.body import BodyProblem, BodyReader, reader_for
from proxy.http.framing import NO_BODY, NONE, Framing, request_framing
from proxy.http.headers import Fields, ForwardedFields, framing_line, keeps_alive, sort_request
from proxy.http.problem import HttpProblem, bad_framing, bad_request
from proxy.http.syntax import HeadCollector, HeadTooLarge, SyntaxProblem, parse_request

_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PROPFIND", b"REPORT", b"SEARCH"})
_REFUSED_METHODS = frozenset({b"CONNECT", b"TRACE"})


class Request(msgspec.Struct, frozen=True, gc=False):
    """One request head, checked; everything needed to forward it."""

    method: bytes
    target: bytes
    """Origin form, or "*"."""
    minor: int
    host: bytes
    """Host with its port as the client wrote it; b"" for an HTTP/1.0 request without one."""
    framing: Framing
    length: int
    fields: Fields
    keep_alive: bool
    upgrade: bytes = b""
    """b"websocket" where the client asks for it; other upgrades are not offered onwards."""

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for 100 (Continue) before its body (RFC 9110 10.1.1: never one of HTTP/1.0)."""
        return self.fields.expect == b"100-continue" and self.framing is not NONE and self.minor == 1

    @property
    def is_idempotent(self) -> bool:
        """Whether it may be sent again without being asked (RFC 9110 9.2.2)."""
        return self.method in _IDEMPOTENT

    def onward_head(self, host: bytes, forwarded: ForwardedFields, via: bytes) -> bytes:
        """Return the head for the upstream: HTTP/1.1, origin form, our Host, framing and X-Forwarded fields."""
        fields = self.fields
        return b"".join(
            (
                b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (self.method, self.target, host),
                *fields.kept,
                forwarded.lines(host, fields.forwarded),
                framing_line(self.framing, self.length),
                b"Connection: upgrade\r\nUpgrade: %b\r\n" % self.upgrade if self.upgrade else b"",
                via,
                b"\r\n",
            )
        )


def read_request(head: bytes, config: HttpConfig) -> Request:
    """Parse and check one whole head. Raises HttpProblem."""
    try:
        method, target, major, minor, start = parse_request(head)
    except SyntaxProblem as problem:
        raise bad_request(str(problem)) from None
    if major != 1 or minor > 1:
        raise HttpProblem(505, HttpReason.UNSUPPORTED, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if len(target) > config.max_target_bytes:
        raise HttpProblem(414, HttpReason.HEADERS_TOO_LARGE, "the request target is too long")
    if head.count(b"\r\n", start) - 1 > config.max_headers:
        raise HttpProblem(431, HttpReason.HEADERS_TOO_LARGE, "too many header fields")
    if method in _REFUSED_METHODS:
        raise HttpProblem(405, HttpReason.UNSUPPORTED, "this method is not allowed here")
    fields = sort_request(head, start)
    target, host = read_authority(method, target, minor, fields.hosts)
    if fields.lengths or fields.codings:
        framing, length = request_framing(minor, fields.lengths, fields.codings)
        if length > config.max_body_bytes:
            raise HttpProblem(413, HttpReason.BODY_TOO_LARGE, "the request body is too large")
        if framing is NONE:
            # "Content-Length: 0" goes on as it came: a POST without it is refused by some servers.
            fields.kept.append(b"Content-Length: 0\r\n")
    else:
        framing, length = NO_BODY
    upgrade = _read_upgrade(method, minor, framing, fields) if fields.upgrades else b""
    keep_alive = keeps_alive(minor, fields.options)
    return Request(method, target, minor, host, framing, length, fields, keep_alive, upgrade)


def _read_upgrade(method: bytes, minor: int, framing: Framing, fields: Fields) -> bytes:
    """Return b"websocket" where that is what the client wants; h2c is never offered on (RFC 9110 7.8, RFC 6455 4)."""
    is_asked = minor == 1 and method == b"GET" and framing is NONE and b"upgrade" in fields.options
    return b"websocket" if is_asked and fields.upgrades[0].lower() == b"websocket" else b""


class RequestParser:
    """Reads requests off a client's bytes, in order."""

    __slots__ = ("_body", "_collector", "_config", "_rest", "_size", "has_failed", "is_complete")

    def __init__(self, config: HttpConfig) -> None:
        self._config = config
        self._collector = HeadCollector(config.max_header_bytes, skips_empty_lines=True)
        self._rest = b""
        self._body: BodyReader | None = None
        self._size = 0
        self.is_complete = True
        """Whether the last request was read to its end."""
        self.has_failed = False
        """Whether a head was refused, so that nobody knows what the bytes behind it are."""

    @property
    def buffered(self) -> int:
        """Bytes that wait to be pulled."""
        return len(self._rest)

    @property
    def has_started(self) -> bool:
        """Whether part of a next head has arrived."""
        return bool(self._rest) or self._collector.has_started

    def feed(self, data: bytes) -> None:
        """Add bytes of the client."""
        self._rest = self._rest + data if self._rest else data

    def take_rest(self) -> bytes:
        """Give up the bytes that were not pulled, for a tunnel."""
        rest, self._rest = self._rest, b""
        return rest

    def read_head(self) -> Request | None:
        """Return the next request, or None while its head is not whole. Raises HttpProblem."""
        data, self._rest = self._rest, b""
        if not data:
            return None
        try:
            found = self._collect(data)
            if found is None:
                return None
            head, self._rest = found
            request = read_request(head, self._config)
        except HttpProblem:
            self.has_failed = True
            raise
        self._body = reader_for(request.framing, request.length)
        self._size = 0
        self.is_complete = self._body is None
        return request

    def _collect(self, data: bytes) -> tuple[bytes, bytes] | None:
        try:
            return self._collector.feed(data)
        except SyntaxProblem as problem:
            raise bad_request(str(problem)) from None
        except HeadTooLarge as problem:
            if problem.is_first_line:
                raise HttpProblem(414, HttpReason.HEADERS_TOO_LARGE, "the request line is too long") from None
            raise HttpProblem(431, HttpReason.HEADERS_TOO_LARGE, "the header fields are too large") from None

    def read_body(self) -> list[bytes]:
        """Return what has arrived of the body, maybe nothing. Raises HttpProblem 400 or 413."""
        data = self._rest
        if self._body is None or not data:
            return []
        try:
            parts, self._rest = self._body.feed(data)
        except BodyProblem as problem:
            raise bad_framing(str(problem)) from None
        self._size += sum(map(len, parts))
        if self._size > self._config.max_body_bytes:
            raise HttpProblem(413, HttpReason.BODY_TOO_LARGE, "the request body is too large")
        if self._body.is_complete:
            self._body, self.is_complete = None, True
        return parts
