"""Responses as we understood them, and the parser that reads them off an upstream's bytes. Sans-IO.

Pulled like the request parser: `expect` names the request, then `feed`, `read_head` (interim responses too) and
`read_body`. As strict as towards clients: a malformed response is a 502, never passed on. Problems are raised as
HttpProblem.
"""

from __future__ import annotations

import msgspec

from proxy.http.body import BodyProblem, BodyReader, reader_for
from proxy.http.framing import LENGTH, UNTIL_CLOSE, Framing, response_framing
from proxy.http.headers import Fields, keeps_alive, sort_response
from proxy.http.problem import bad_response
from proxy.http.syntax import HeadCollector, HeadTooLarge, SyntaxProblem, parse_response

MAX_INTERIM_RESPONSES = 32
"""1xx responses before a final one; an upstream that sends more is broken."""


class Response(msgspec.Struct, frozen=True, gc=False):
    """One response head, checked."""

    status: int
    phrase: bytes
    minor: int
    framing: Framing
    length: int
    """Of a body with a length; where there is no body, what Content-Length announced or -1."""
    fields: Fields
    keep_alive: bool

    @property
    def is_interim(self) -> bool:
        """1xx, 101 excepted: a final response follows (RFC 9110 15.2)."""
        return self.status < 200 and self.status != 101


def read_response(head: bytes, *, to_head: bool) -> Response:
    """Parse and check one whole head; `to_head`: it answers HEAD. Raises HttpProblem 502."""
    try:
        minor, status, phrase, start = parse_response(head)
    except SyntaxProblem as problem:
        raise bad_response(f"the upstream's response is malformed: {problem}") from None
    fields = sort_response(head, start)
    if status > 599:
        raise bad_response("the upstream's status is not one of HTTP")
    framing, length = response_framing(status, minor, fields.lengths, fields.codings, to_head=to_head)
    keep_alive = keeps_alive(minor, fields.options) and framing is not UNTIL_CLOSE
    return Response(status, phrase, minor, framing, length, fields, keep_alive)


class ResponseParser:
    """Reads the responses of one upstream connection, one request at a time."""

    __slots__ = ("_body", "_collector", "_interims", "_rest", "_to_head", "_whole", "has_head", "is_complete")

    def __init__(self, max_header_bytes: int) -> None:
        self._collector = HeadCollector(max_header_bytes, skips_empty_lines=False)
        self._rest = self._whole = b""
        self._body: BodyReader | None = None
        self._to_head = False
        self._interims = 0
        self.has_head = False
        """Whether the final head of the expected response was read."""
        self.is_complete = True

    def expect(self, *, to_head: bool) -> None:
        """A request was sent; `to_head` for HEAD."""
        self._to_head = to_head
        self._interims = 0
        self.has_head = self.is_complete = False

    @property
    def has_rest(self) -> bool:
        """Whether bytes are left that belong to no response; such a connection must not be used again."""
        return bool(self._rest) or self._collector.has_started

    def feed(self, data: bytes) -> None:
        """Add bytes of the upstream."""
        self._rest = self._rest + data if self._rest else data

    def take_rest(self) -> bytes:
        """Give up the bytes that were not pulled, for a tunnel."""
        rest, self._rest = self._rest, b""
        return rest

    def read_head(self) -> Response | None:
        """Return the next head, interim or final, or None while it is not whole. Raises HttpProblem 502."""
        data, self._rest = self._rest, b""
        if not data:
            return None
        try:
            found = self._collector.feed(data)
        except SyntaxProblem as problem:
            raise bad_response(f"the upstream's response is malformed: {problem}") from None
        except HeadTooLarge:
            raise bad_response("the upstream's header fields are too large") from None
        if found is None:
            return None
        head, self._rest = found
        response = read_response(head, to_head=self._to_head)
        if response.status < 200 and response.is_interim:
            self._interims += 1
            if self._interims > MAX_INTERIM_RESPONSES:
                raise bad_response("the upstream sends interim responses without end")
            return response
        self.has_head = True
        length = response.length
        if response.framing is LENGTH and len(self._rest) >= length:
            # The common small response came in one read: it needs no reader.
            self._whole, self._rest = self._rest[:length], self._rest[length:]
            self._body, self.is_complete = None, True
            return response
        self._body = reader_for(response.framing, length)
        self.is_complete = self._body is None
        return response

    def read_body(self) -> list[bytes]:
        """Return what has arrived of the body, maybe nothing. Raises HttpProblem 502."""
        if self._whole:
            parts, self._whole = [self._whole], b""
            return parts
        data = self._rest
        if self._body is None or not data:
            return []
        try:
            parts, self._rest = self._body.feed(data)
        except BodyProblem as problem:
            raise bad_response(f"the upstream's body is malformed: {problem}") from None
        self.is_complete = self._body.is_complete
        return parts

    def end_of_stream(self) -> bool:
        """The upstream closed; tell whether the response is whole."""
        if self.has_head and self._body is not None:
            self.is_complete = self._body.end_of_stream()
        return self.is_complete
