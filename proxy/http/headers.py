"""Which header fields go on, which are ours, and what both sides' heads look like on the wire. Pure.

Fields that belong to one connection end here (RFC 9110 7.6.1): Connection and what it names, Keep-Alive,
Proxy-Connection, TE, Trailer, Transfer-Encoding, Upgrade. Content-Length, Transfer-Encoding, Host and Connection are
always written anew from what was understood, never copied. Other fields go on as the lines they came in.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from proxy.http.framing import CHUNKED, LENGTH, Framing

Field = tuple[bytes, bytes, bytes]
"""The whole line with its CRLF, the name in lower case, the value without white space around it."""

_HOST, _LENGTH, _CODING, _CONNECTION, _UPGRADE, _EXPECT, _FORWARDED, _DROP = range(8)


_FORWARDED_NAMES = (
    b"x-forwarded-for",
    b"x-forwarded-proto",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-server",
    b"x-forwarded-prefix",
    b"x-forwarded-scheme",
    b"x-forwarded-ssl",
    b"x-real-ip",
    b"forwarded",
)
_REQUEST_KINDS: dict[bytes, int] = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"expect": _EXPECT,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"te": _DROP,
    b"trailer": _DROP,
    # An upgrade to HTTP/2 would carry requests past us unseen; "Proxy" is read as $HTTP_PROXY by CGI programs.
    b"http2-settings": _DROP,
    b"proxy": _DROP,
    b"content_length": _DROP,
    b"transfer_encoding": _DROP,
    **dict.fromkeys(_FORWARDED_NAMES, _FORWARDED),
}
_RESPONSE_KINDS: dict[bytes, int] = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
    b"keep-alive": _DROP,
    b"proxy-connection": _DROP,
    b"te": _DROP,
    b"trailer": _DROP,
}
_PLAIN_OPTIONS = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b""})


def _finder(kinds: dict[bytes, int]) -> re.Pattern[bytes]:
    """Return an expression that finds the lines with these names in a checked, lower-cased head.

    CGI-style servers cannot tell "-" from "_", so what a client may not forge is found with either.
    """
    names = [
        re.escape(name).replace(rb"\-", b"[-_]" if kind == _FORWARDED else b"-") for name, kind in sorted(kinds.items())
    ]
    return re.compile(rb"\n(" + b"|".join(names) + rb"):[ \t]*+([^\r]*+)\r")


_REQUEST_FINDER = _finder(_REQUEST_KINDS)
_RESPONSE_FINDER = _finder(_RESPONSE_KINDS)


class Fields:
    """The fields of one head, sorted by who needs them. Written by `sort_*`, read-only for all others."""

    __slots__ = ("codings", "expect", "forwarded", "hosts", "kept", "lengths", "options", "upgrades")

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        """Runs of lines that go on unchanged, each line with its CRLF."""
        self.hosts: Sequence[bytes] = ()
        self.lengths: Sequence[bytes] = ()
        self.codings: Sequence[bytes] = ()
        self.options: Sequence[bytes] = ()
        """Connection options in lower case."""
        self.upgrades: Sequence[bytes] = ()
        self.expect: bytes = b""
        self.forwarded: Sequence[Field] = ()
        """X-Forwarded-* and the like, as the client sent them."""


def sort_request(head: bytes, start: int) -> Fields:
    """Sort the fields of a request; `head` was checked, `start` is where its fields begin."""
    return _sort(head, start, _REQUEST_FINDER, _REQUEST_KINDS)


def sort_response(head: bytes, start: int) -> Fields:
    """Sort the fields of a response; `head` was checked, `start` is where its fields begin."""
    return _sort(head, start, _RESPONSE_FINDER, _RESPONSE_KINDS)


def _sort(head: bytes, start: int, finder: re.Pattern[bytes], kinds: dict[bytes, int]) -> Fields:
    """Cut the special lines out of the block; what lies between them is kept as it is, many lines in one slice."""
    fields = Fields()
    keep = fields.kept.append
    for match in finder.finditer(head.lower(), start - 1):
        kind = kinds.get(match[1], _FORWARDED)
        line_start = match.start() + 1
        value_start, line_end = match.span(2)
        value = head[value_start:line_end].rstrip(b" \t")
        if kind == _LENGTH:
            fields.lengths = (*fields.lengths, value)
        elif kind == _HOST:
            fields.hosts = (*fields.hosts, value)
        elif kind == _EXPECT:
            fields.expect = value.lower()
            continue
        else:
            _note(fields, kind, head[line_start : line_end + 2], match[1], value)
        if line_start > start:
            keep(head[start:line_start])
        start = line_end + 2
    keep(head[start:-2])
    if fields.options:
        _drop_named(fields)
    return fields


def _note(fields: Fields, kind: int, line: bytes, name: bytes, value: bytes) -> None:
    if kind == _CODING:
        fields.codings = (*fields.codings, value)
    elif kind == _CONNECTION:
        options = value.lower()
        if b"," in options:
            fields.options = (*fields.options, *[option.strip(b" \t") for option in options.split(b",")])
        else:
            fields.options = (*fields.options, options)
    elif kind == _UPGRADE:
        fields.upgrades = (*fields.upgrades, value)
    elif kind == _FORWARDED:
        fields.forwarded = (*fields.forwarded, (line, name, value))


def _drop_named(fields: Fields) -> None:
    """Remove the fields that Connection names (RFC 9110 7.6.1). Those we write ourselves cannot be taken out by it."""
    if _PLAIN_OPTIONS.issuperset(fields.options):
        return
    named = set(fields.options) - _PLAIN_OPTIONS
    lines = [line for run in fields.kept for line in run.splitlines(keepends=True)]
    fields.kept = [line for line in lines if line[: line.index(b":")].lower() not in named]


def keeps_alive(minor: int, options: Sequence[bytes]) -> bool:
    """Whether the sender wants the connection kept (RFC 9112 9.3)."""
    if not options:
        return minor == 1
    return b"close" not in options and (minor == 1 or b"keep-alive" in options)


class ForwardedFields:
    """Writes X-Forwarded-For, -Proto, -Port and -Host for the requests of one client connection."""

    __slots__ = ("_appends", "_fixed", "_ip", "_port", "_proto")

    def __init__(self, mode: Literal["replace", "append"], client_ip: str, scheme: str, port: int) -> None:
        self._appends = mode == "append"
        self._ip = client_ip.encode("ascii", "replace")
        self._proto = scheme.encode("ascii")
        self._port = str(port).encode("ascii")
        self._fixed = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Port: %b\r\nX-Forwarded-Host: " % (
            self._ip,
            self._proto,
            self._port,
        )

    def lines(self, host: bytes, received: Sequence[Field]) -> bytes:
        """Return the lines for one request; `received` are such fields as the client sent.

        "replace" forgets them. "append" adds the client's address to X-Forwarded-For and leaves the others as the
        trusted proxy in front wrote them, adding those that it did not write.
        """
        if not self._appends or not received:
            return b"%b%b\r\n" % (self._fixed, host)
        chain = [value for _, name, value in received if name == b"x-forwarded-for" and value]
        lines = [b"X-Forwarded-For: %b\r\n" % b", ".join([*chain, self._ip])]
        others = [(name, line) for line, name, _ in received if name != b"x-forwarded-for"]
        lines += [line for name, line in others if b"_" not in name]
        present = {name for name, _ in others}
        ours = ((b"X-Forwarded-Proto", self._proto), (b"X-Forwarded-Port", self._port), (b"X-Forwarded-Host", host))
        lines += [b"%b: %b\r\n" % (name, value) for name, value in ours if name.lower() not in present]
        return b"".join(lines)


def framing_line(framing: Framing, length: int) -> bytes:
    """Return the field that announces a body, with its CRLF."""
    if framing is LENGTH:
        return b"Content-Length: %d\r\n" % length
    return b"Transfer-Encoding: chunked\r\n" if framing is CHUNKED else b""


def chunk(parts: Sequence[bytes]) -> list[bytes]:
    """Return `parts` as one chunk (RFC 9112 7.1); an empty chunk would be the end, so nothing gives nothing."""
    size = sum(map(len, parts))
    return [b"%x\r\n" % size, *parts, b"\r\n"] if size else []


LAST_CHUNK = b"0\r\n\r\n"
