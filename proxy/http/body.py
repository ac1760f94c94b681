"""Readers of bodies: wire bytes in, payload out (RFC 9112 6, 7). Sans-IO; no limits on payload sizes are kept here.

Each reader has `feed(data) -> (payload parts, bytes behind the body)` and `is_complete`. Parts are slices of what came
in; nothing is collected, so memory does not grow with the body. Trailers are checked, bounded and dropped
(RFC 9110 6.5.1).
"""

from __future__ import annotations

import re
from typing import Protocol

from proxy.http.framing import CHUNKED, LENGTH, NONE, Framing
from proxy.http.syntax import TOKEN, is_field_line

MAX_CHUNK_LINE_BYTES = 256
"""Size and extensions of one chunk."""
MAX_TRAILER_BYTES = 8192

_EXTENSION = rb";" + TOKEN + rb"(?:=(?:" + TOKEN + rb'|"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"))?'
_PLAIN_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:" + _EXTENSION + rb")*\r\n")


class BodyProblem(Exception):
    """The body breaks its framing; str() says how in fixed words."""


class BodyReader(Protocol):
    """Finds the end of one body."""

    is_complete: bool

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Return the payload in `data` and what lies behind the body. Raises BodyProblem."""

    def end_of_stream(self) -> bool:
        """The peer closed; tell whether the body is whole."""


class LengthBody:
    """A body of a known length (RFC 9112 6.2)."""

    __slots__ = ("_remaining", "is_complete")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.is_complete = length == 0

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See BodyReader."""
        remaining = self._remaining
        size = len(data)
        if size < remaining:
            self._remaining = remaining - size
            return [data], b""
        self._remaining = 0
        self.is_complete = True
        return [data[:remaining]], data[remaining:]

    def end_of_stream(self) -> bool:
        """See BodyReader."""
        return self.is_complete


class UntilCloseBody:
    """A response body that ends with the connection (RFC 9112 6.3, rule 8)."""

    __slots__ = ("is_complete",)

    def __init__(self) -> None:
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See BodyReader."""
        return [data], b""

    def end_of_stream(self) -> bool:
        """See BodyReader."""
        self.is_complete = True
        return True


class _State:
    SIZE, DATA, DATA_END, TRAILER = range(4)


class ChunkedBody:
    """A chunked body (RFC 9112 7.1). Bare LF, white space round sizes and broken extensions are refused."""

    __slots__ = ("_carry", "_remaining", "_state", "_trailer_bytes", "is_complete")

    def __init__(self) -> None:
        self._state = _State.SIZE
        self._remaining = 0
        self._carry = b""
        self._trailer_bytes = 0
        self.is_complete = False

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """See BodyReader."""
        if self._carry:
            data, self._carry = self._carry + data, b""
        parts: list[bytes] = []
        position, size = 0, len(data)
        while position < size:
            if self._state == _State.SIZE:
                position = _take_whole_chunks(data, position, parts)
            if self._state == _State.DATA:
                end = min(size, position + self._remaining)
                parts.append(data[position:end])
                self._remaining -= end - position
                position = end
                if not self._remaining:
                    self._state = _State.DATA_END
                continue
            line_end = self._find_line(data, position)
            if line_end < 0:
                self._carry = data[position:]
                break
            self._take_line(data, position, line_end)
            position = line_end
            if self.is_complete:
                return parts, data[position:]
        return parts, b""

    def end_of_stream(self) -> bool:
        """See BodyReader."""
        return self.is_complete

    def _find_line(self, data: bytes, position: int) -> int:
        """Return the offset behind the line at `position`, or -1 while it is not whole."""
        if self._state == _State.DATA_END:
            limit = 2
        elif self._state == _State.SIZE:
            limit = MAX_CHUNK_LINE_BYTES
        else:
            limit = MAX_TRAILER_BYTES - self._trailer_bytes
        end = data.find(b"\n", position, position + limit)
        if end < 0:
            if len(data) - position >= limit:
                raise BodyProblem(
                    "the end of a chunk is missing" if limit == 2 else "a chunk line or trailer is too long"
                )
            if self._state == _State.DATA_END and data[position : position + 1] != b"\r":
                raise BodyProblem("the end of a chunk is missing")
            return -1
        if data[end - 1 : end] != b"\r" or end == position:
            raise BodyProblem("bare LF in a chunked body")
        return end + 1

    def _take_line(self, data: bytes, position: int, line_end: int) -> None:
        if self._state == _State.DATA_END:
            self._state = _State.SIZE
        elif self._state == _State.SIZE:
            self._take_size(data, position, line_end)
        elif line_end - position == 2:
            self.is_complete = True
        else:
            self._trailer_bytes += line_end - position
            if not is_field_line(data[position:line_end]):
                raise BodyProblem("malformed trailer field")

    def _take_size(self, data: bytes, position: int, line_end: int) -> None:
        match = _CHUNK_LINE.match(data, position)
        if match is None or match.end() != line_end:
            raise BodyProblem("malformed chunk size or extension")
        self._remaining = int(match.group(1), 16)
        self._state = _State.DATA if self._remaining else _State.TRAILER


def _take_whole_chunks(data: bytes, position: int, parts: list[bytes]) -> int:
    """Take the chunks that are whole and plain; return where the first that is not, or is the last, begins.

    A chunk of one byte must not cost a hundred times its bytes: clients choose how small they are.
    """
    match_line = _PLAIN_LINE.match
    while (line := match_line(data, position)) is not None:
        start = line.end()
        end = start + int(line[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            break
        parts.append(data[start:end])
        position = end + 2
    return position


def reader_for(framing: Framing, length: int) -> BodyReader | None:
    """Return the reader for a body, None where there is none."""
    if framing is NONE:
        return None
    if framing is LENGTH:
        return LengthBody(length)
    return ChunkedBody() if framing is CHUNKED else UntilCloseBody()
