"""Which header fields go on, which are ours, and what both sides' heads look like on the wire. Pure.

Fields that belong to one connection end here (RFC 9110 7.6.1): Connection and what it names, Keep-Alive,
Proxy-Connection, TE, Trailer, Transfer-Encoding, Upgrade. Content-Length, Transfer-Encoding, Host and Connection are
always written anew from what was understood, never copied. Other fields go on as the lines they came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal

from proxy.http.framing import Framing
from proxy.http.syntax import Field

_KEEP, _HOST, _LENGTH, _CODING, _CONNECTION, _UPGRADE, _EXPECT, _FORWARDED, _DROP = range(9)


def _spellings(name: str) -> Iterable[bytes]:
    """Return `name` with "-" and "_" mixed: CGI-style servers cannot tell them apart, so neither do we."""
    parts = name.split("-")
    for joints in product("-_", repeat=len(parts) - 1):
        yield "".join(part + joint for part, joint in zip(parts, (*joints, ""), strict=True)).encode()


_FORWARDED_NAMES = (
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-server",
    "x-forwarded-prefix",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-real-ip",
    "forwarded",
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
    **{spelling: _FORWARDED for name in _FORWARDED_NAMES for spelling in _spellings(name)},
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


class Fields:
    """The fields of one head, sorted by who needs them. Written by `sort_*`, read-only for all others."""

    __slots__ = ("codings", "expect", "forwarded", "hosts", "kept", "lengths", "options", "upgrades")

    def __init__(self) -> None:
        self.kept: list[bytes] = []
        """Lines that go on unchanged, each with its CRLF."""
        self.hosts: Sequence[bytes] = ()
        self.lengths: Sequence[bytes] = ()
        self.codings: Sequence[bytes] = ()
        self.options: Sequence[bytes] = ()
        """Connection options in lower case."""
        self.upgrades: Sequence[bytes] = ()
        self.expect: bytes = b""
        self.forwarded: Sequence[Field] = ()
        """X-Forwarded-* and the like, as the client sent them."""


def sort_request(fields: Sequence[Field]) -> Fields:
    """Sort the fields of a request."""
    sorted_fields = Fields()
    keep = sorted_fields.kept.append
    kind_of = _REQUEST_KINDS.get
    for field in fields:
        kind = kind_of(field[1].lower())
        if kind is None:
            keep(field[0])
        else:
            _sort_special(sorted_fields, kind, field)
    if sorted_fields.options:
        _drop_named(sorted_fields)
    return sorted_fields


def sort_response(fields: Sequence[Field]) -> Fields:
    """Sort the fields of a response."""
    sorted_fields = Fields()
    keep = sorted_fields.kept.append
    kind_of = _RESPONSE_KINDS.get
    for field in fields:
        kind = kind_of(field[1].lower())
        if kind is None:
            keep(field[0])
        else:
            _sort_special(sorted_fields, kind, field)
    if sorted_fields.options:
        _drop_named(sorted_fields)
    return sorted_fields


def _sort_special(fields: Fields, kind: int, field: Field) -> None:
    value = field[2]
    if kind == _HOST:
        fields.hosts = (*fields.hosts, value)
    elif kind == _LENGTH:
        fields.lengths = (*fields.lengths, value)
    elif kind == _CODING:
        fields.codings = (*fields.codings, value)
    elif kind == _CONNECTION:
        options = (option.strip(b" \t") for option in value.lower().split(b","))
        fields.options = (*fields.options, *options)
    elif kind == _UPGRADE:
        fields.upgrades = (*fields.upgrades, value)
    elif kind == _FORWARDED:
        fields.forwarded = (*fields.forwarded, field)
    elif kind == _EXPECT:
        fields.expect = value.lower()
        fields.kept.append(field[0])


def _drop_named(fields: Fields) -> None:
    """Remove the fields that Connection names (RFC 9110 7.6.1). Those we write ourselves cannot be taken out by it."""
    named = set(fields.options) - _PLAIN_OPTIONS
    if named:
        fields.kept = [line for line in fields.kept if line[: line.index(b":")].lower() not in named]


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
        chain = [value for _, name, value in received if name.lower() == b"x-forwarded-for" and value]
        lines = [b"X-Forwarded-For: %b\r\n" % b", ".join([*chain, self._ip])]
        others = [(name.lower(), line) for line, name, _ in received if name.lower() != b"x-forwarded-for"]
        lines += [line for name, line in others if b"_" not in name]
        present = {name for name, _ in others}
        ours = ((b"X-Forwarded-Proto", self._proto), (b"X-Forwarded-Port", self._port), (b"X-Forwarded-Host", host))
        lines += [b"%b: %b\r\n" % (name, value) for name, value in ours if name.lower() not in present]
        return b"".join(lines)


def framing_line(framing: Framing, length: int) -> bytes:
    """Return the field that announces a body, with its CRLF."""
    if framing is Framing.LENGTH:
        return b"Content-Length: %d\r\n" % length
    return b"Transfer-Encoding: chunked\r\n" if framing is Framing.CHUNKED else b""


def chunk(parts: Sequence[bytes]) -> list[bytes]:
    """Return `parts` as one chunk (RFC 9112 7.1); an empty chunk would be the end, so nothing gives nothing."""
    size = sum(map(len, parts))
    return [b"%x\r\n" % size, *parts, b"\r\n"] if size else []


LAST_CHUNK = b"0\r\n\r\n"
