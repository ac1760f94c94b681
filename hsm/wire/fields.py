"""Texts and addresses inside items: names, client addresses, trace contexts, error details.

All of them inform people and logs; none decides anything. What can't be shown safely is escaped or replaced here, so
that nothing a client put into its handshake reaches a log line raw.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from hsm.wire.layout import MAX_DETAIL_BYTES, MAX_NAME_BYTES

# W3C Trace Context 3.2: version 00 is exactly this long; later versions may only append.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[!-~]{1,200})?"
)


@lru_cache(maxsize=4096)
def encode_ip(address: str) -> bytes:
    """4 or 16 bytes; an IPv6 zone is dropped. ValueError if `address` is no IP address."""
    return ip_address(address).packed


def decode_ip(data: bytes) -> str:
    """The address of 4 or 16 bytes."""
    return f"{data[0]}.{data[1]}.{data[2]}.{data[3]}" if len(data) == 4 else str(IPv6Address(data))


@lru_cache(maxsize=1024)
def encode_name(name: str) -> bytes:
    """A server name as ASCII; what is not ASCII is escaped and what is over 255 bytes cut off."""
    return name.encode("ascii", "backslashreplace")[:MAX_NAME_BYTES]


def decode_name(data: bytes) -> str:
    """A server name as printable ASCII of at most 255 characters; other bytes come escaped."""
    text = data[:MAX_NAME_BYTES].decode("ascii", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def encode_trace(trace: str) -> bytes:
    """A traceparent. ValueError if it is none: a wrong one would be lost silently at the node."""
    if _TRACEPARENT.fullmatch(trace) is None:
        raise ValueError("trace is not a W3C traceparent (00-<32 hex>-<16 hex>-<2 hex>)")
    return trace.encode("ascii")


def decode_trace(data: bytes) -> str:
    """The traceparent, or "" if it is not a valid one, as W3C Trace Context 4.3 asks."""
    text = data[:MAX_NAME_BYTES].decode("ascii", "replace")
    return text if _TRACEPARENT.fullmatch(text) is not None else ""


def encode_text(text: str, max_bytes: int = MAX_DETAIL_BYTES) -> bytes:
    """UTF-8 of at most `max_bytes`, cut between characters."""
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= max_bytes else data[:max_bytes].decode("utf-8", "ignore").encode("utf-8")


def decode_text(data: bytes, max_bytes: int = MAX_DETAIL_BYTES) -> str:
    """At most `max_bytes` of UTF-8; wrong bytes and characters that can't be printed come as U+FFFD."""
    text = data[:max_bytes].decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
