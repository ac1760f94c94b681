"""The grammar of heads (RFC 9112 2-5, RFC 9110 5): bytes to lines and fields, strictly, and nothing else.

One reading of a head is the only defence against request smuggling, so there is one regular expression for the whole
block: a head matches it from its first to its last byte or is refused. What framing the fields mean is `framing.py`'s.
No per-byte Python: `bytes.find` and compiled expressions do the work. Both parsers call it.
"""

from __future__ import annotations

import re

# Possessive quantifiers ("++") only behind single sets: behind groups they match wrongly in CPython before 3.11.5
# (gh-106052), and Debian 12 has 3.11.2. Without them nothing is slow here, because no two branches begin alike.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_VALUE = rb"[\t -~\x80-\xff]*+"

_FIELD_LINES = rb"(?:" + TOKEN + rb":" + _VALUE + rb"\r\n)*\r\n"
_REQUEST_LINE = rb"(" + TOKEN + rb") ([!-~]++) HTTP/([0-9])\.([0-9])\r\n"
_STATUS_LINE = rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + _VALUE + rb"))?\r\n"
_REQUEST = re.compile(_REQUEST_LINE + rb"()" + _FIELD_LINES)
_RESPONSE = re.compile(_STATUS_LINE + rb"()" + _FIELD_LINES)
_ONLY_REQUEST_LINE = re.compile(_REQUEST_LINE)
_ONLY_STATUS_LINE = re.compile(_STATUS_LINE)
_TRAILER = re.compile(TOKEN + rb":" + _VALUE + rb"\r\n")
_BAD_BYTE = re.compile(rb"\x00|\r(?=[^\n])|(?<!\r)\n")

HEAD_END = b"\r\n\r\n"
MAX_EMPTY_LINES = 2
"""Empty lines that may stand before a request (RFC 9112 2.2 asks for one; some clients send one after a body)."""


class SyntaxProblem(Exception):
    """The head is not HTTP/1.x; str() says why in fixed words."""


class HeadTooLarge(Exception):
    """The head is longer than allowed; `is_first_line` tells that already its first line is."""

    def __init__(self, *, is_first_line: bool) -> None:
        super().__init__(is_first_line)
        self.is_first_line = is_first_line


class HeadCollector:
    """Collects bytes until a head is whole, never more than `limit` bytes of it."""

    __slots__ = ("_buffer", "_empty_lines", "_limit", "_scanned", "_skips_empty_lines")

    def __init__(self, limit: int, *, skips_empty_lines: bool) -> None:
        self._limit = limit
        self._skips_empty_lines = skips_empty_lines
        self._buffer = bytearray()
        self._scanned = 0
        self._empty_lines = 0

    @property
    def has_started(self) -> bool:
        """Whether part of a head has arrived."""
        return bool(self._buffer) or self._empty_lines > 0

    def feed(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return (head with its final empty line, the bytes behind it), or None while it is not whole.

        Raises HeadTooLarge, and SyntaxProblem as soon as a byte shows that no valid head can follow.
        """
        if self._buffer or data[:1] in (b"\r", b"\n"):
            return self._feed_slowly(data)
        end = data.find(HEAD_END)
        if end < 0:
            return self._feed_slowly(data)
        end += 4
        self._empty_lines = 0
        if end > self._limit:
            raise self._too_large(data)
        return data[:end], data[end:]

    def _feed_slowly(self, data: bytes) -> tuple[bytes, bytes] | None:
        self._buffer += data
        self._drop_empty_lines()
        buffer = self._buffer
        end = buffer.find(HEAD_END, max(0, self._scanned - 3))
        if end < 0:
            self._check_partial()
            return None
        end += 4
        if end > self._limit:
            raise self._too_large(buffer)
        head, rest = bytes(buffer[:end]), bytes(buffer[end:])
        self._buffer, self._scanned, self._empty_lines = bytearray(), 0, 0
        return head, rest

    def _drop_empty_lines(self) -> None:
        if not self._skips_empty_lines or self._scanned:
            return
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            self._empty_lines += 1
            if self._empty_lines > MAX_EMPTY_LINES:
                raise SyntaxProblem("too many empty lines before the request")

    def _check_partial(self) -> None:
        buffer = self._buffer
        if len(buffer) > self._limit:
            raise self._too_large(buffer)
        # A lone LF would never complete the head: refuse now rather than at the deadline.
        if _BAD_BYTE.search(buffer, max(0, self._scanned - 1)):
            raise SyntaxProblem("NUL, bare CR or bare LF in the head")
        if buffer != b"\r":
            self._scanned = len(buffer)

    def _too_large(self, buffer: bytes | bytearray) -> HeadTooLarge:
        return HeadTooLarge(is_first_line=buffer.find(b"\r\n", 0, self._limit) < 0)


def parse_request(head: bytes) -> tuple[bytes, bytes, int, int, int]:
    """Check a whole head. Return (method, target, major, minor, offset of the fields).

    Raises SyntaxProblem (RFC 9112 3, 5).
    """
    match = _REQUEST.fullmatch(head)
    if match is None:
        line = _ONLY_REQUEST_LINE.match(head)
        raise SyntaxProblem("malformed request line" if line is None else _explain(head, line.end()))
    method, target, major, minor, _ = match.groups()
    return method, target, int(major), int(minor), match.end(5)


def parse_response(head: bytes) -> tuple[int, int, bytes, int]:
    """Check a whole head. Return (minor version, status, reason phrase, offset of the fields).

    Raises SyntaxProblem (RFC 9112 4, 5).
    """
    match = _RESPONSE.fullmatch(head)
    if match is None:
        line = _ONLY_STATUS_LINE.match(head)
        raise SyntaxProblem("malformed status line" if line is None else _explain(head, line.end()))
    minor, status, reason, _ = match.groups()
    return int(minor), int(status), reason or b"", match.end(4)


def is_field_line(line: bytes) -> bool:
    """Whether `line`, with its CRLF, is one well-formed field; used for trailers."""
    return _TRAILER.fullmatch(line) is not None


def _explain(head: bytes, start: int) -> str:
    """Find words for why a block does not match; only on the way to a refusal."""
    if _BAD_BYTE.search(head):
        return "NUL, bare CR or bare LF in the head"
    for line in head[start:-4].split(b"\r\n"):
        name, colon, _ = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            return "a header field is folded over two lines"
        if colon and name != name.rstrip(b" \t"):
            return "white space before the colon of a header field"
        if not colon or not re.fullmatch(TOKEN, name):
            return "malformed name of a header field"
    return "control character in the value of a header field"
