"""What the first bytes of a connection say of the ClientHello in them. Pure: bytes in, an answer out; nothing consumed.

The engine reads the same bytes again and is the judge of them: whatever looks odd here is NOT_A_HELLO, and OpenSSL may
say what is wrong with it. Needed of a hello is little: whether it offers a session, and which server it names.

A hello can come in several TCP reads and in several records (RFC 8446 5.1, RFC 5246 6.2.1). Work is bounded however it
comes: what needs more than MAX_HELLO_BYTES, or more than MAX_RECORDS, is not looked into any further and counts as a
hello that offers nothing.
"""

from __future__ import annotations

from enum import Enum, auto
from struct import Struct, error
from typing import Final, Literal, TypeAlias

import msgspec

from proxy.tls.sites import clean_server_name

MAX_HELLO_BYTES: Final = 16_384 + 512
"""Bytes of a connection that are looked at: one record at its largest, and some more for those of several records."""
MAX_RECORDS: Final = 32
"""Records that one hello may come in; a client that sends each byte in a record of its own wants to cost time."""

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_MAX_RECORD: Final = 16_384
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_BODY: Final = _RECORD_HEADER + _MESSAGE_HEADER
_MIN_BODY: Final = 2 + 32 + 1 + 2 + 1
"""Version, random and three empty vectors."""

_SERVER_NAME: Final = 0
_SESSION_TICKET: Final = 35
_PRE_SHARED_KEY: Final = 41

_two = Struct(">H").unpack_from
_pair = Struct(">HH").unpack_from


class Peek(Enum):
    """Why there is no hello to speak of."""

    NEED_MORE = auto()
    """It looks like one so far."""
    NOT_A_HELLO = auto()
    """It is none, or a broken one."""


NEED_MORE: Final = Peek.NEED_MORE
NOT_A_HELLO: Final = Peek.NOT_A_HELLO


class Hello(msgspec.Struct, frozen=True, gc=False):
    """What a client asks for."""

    offers_session: bool
    """It shows a ticket (RFC 5077) or pre-shared keys (RFC 8446 4.2.11), which we need not accept. A session id alone
    says nothing: TLS 1.3 clients make one up (RFC 8446 D.4)."""
    server_name: str | None = None
    """The name it wants (RFC 6066 3), lower case; None where it names none, or no DNS name."""


_NOTHING = Hello(offers_session=False)

Peeked: TypeAlias = Hello | Literal[Peek.NEED_MORE, Peek.NOT_A_HELLO]


def peek_hello(data: bytes) -> Peeked:
    """Look at everything that a connection has brought so far. Never raises."""
    if not _may_begin_a_hello(data):
        return NOT_A_HELLO
    if len(data) >= _BODY:
        record_end = _RECORD_HEADER + (data[3] << 8 | data[4])
        end = _BODY + int.from_bytes(data[6:_BODY], "big")
        if end <= len(data) and end <= record_end <= _RECORD_HEADER + _MAX_RECORD:
            return _read_body(data, _BODY, end)  # nearly always: all of it is here, in one record
    return _look_through_records(data)


def _may_begin_a_hello(data: bytes) -> bool:
    """A record of a handshake, of any version since SSL 3, and in it the type of a ClientHello, as far as they go."""
    if len(data) > _RECORD_HEADER:
        return data[0] == _HANDSHAKE and data[1] == 3 and data[_RECORD_HEADER] == _CLIENT_HELLO
    return data[:1] in (b"", b"\x16") and data[1:2] in (b"", b"\x03")


def _look_through_records(data: bytes) -> Peeked:
    """Put the message together from the records it comes in."""
    message = bytearray()
    at = wanted = 0
    for _ in range(MAX_RECORDS):
        start = at + _RECORD_HEADER
        if len(data) < start:
            break
        size = data[at + 3] << 8 | data[at + 4]
        if data[at] != _HANDSHAKE or data[at + 1] != 3 or not 0 < size <= _MAX_RECORD:
            return NOT_A_HELLO  # RFC 8446 5.1: nothing may come between, and no record of a handshake is empty
        at = start + size
        message += data[start:at]
        if not wanted and len(message) >= _MESSAGE_HEADER:
            wanted = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
            if wanted > MAX_HELLO_BYTES:
                return _NOTHING
        if 0 < wanted <= len(message):
            return _read_body(bytes(message), _MESSAGE_HEADER, wanted)
    else:
        return _NOTHING
    return NEED_MORE if len(data) < MAX_HELLO_BYTES else _NOTHING


def _read_body(data: bytes, at: int, end: int) -> Peeked:
    """Skip to the extensions (RFC 8446 4.1.2, RFC 5246 7.4.1.2) and look through them."""
    if end - at < _MIN_BODY:
        return NOT_A_HELLO
    try:
        at += 34
        at += 1 + data[at]
        at += 2 + _two(data, at)[0]
        at += 1 + data[at]
        if at == end:  # none at all, as TLS 1.2 allows
            return _NOTHING
        if at + 2 + _two(data, at)[0] != end:
            return NOT_A_HELLO
        return _read_extensions(data, at + 2, end)
    except (IndexError, error):
        return NOT_A_HELLO


def _read_extensions(data: bytes, at: int, end: int) -> Peeked:
    offers_session, server_name = False, None
    while at < end:
        kind, size = _pair(data, at)
        at += 4
        if at + size > end:
            return NOT_A_HELLO
        if kind == _SESSION_TICKET:
            offers_session = offers_session or size > 0
        elif kind == _PRE_SHARED_KEY:
            offers_session = offers_session or _has_identity(data, at, size)
        elif kind == _SERVER_NAME:
            server_name = _name_of(data, at, size)
        at += size
    return Hello(offers_session, server_name)


def _has_identity(data: bytes, at: int, size: int) -> bool:
    """Whether a pre_shared_key extension brings one identity at least; each has an age of 4 bytes behind it."""
    if size < 4:
        return False
    length: int
    first: int
    length, first = _pair(data, at)
    return first > 0 and first + 6 <= length <= size - 2


def _name_of(data: bytes, at: int, size: int) -> str | None:
    """The host name of a server_name extension: a list of one."""
    if size < 5 or data[at + 2] != 0:
        return None
    (length,) = _two(data, at + 3)
    if length + 5 > size:
        return None
    return clean_server_name(data[at + 5 : at + 5 + length]) or None
