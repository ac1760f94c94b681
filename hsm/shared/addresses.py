"""Reads `host:port` addresses. Does not resolve names and opens no socket."""

from __future__ import annotations

import ipaddress
import re

_SHAPE = re.compile(r"^(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:\s/]+)):(?P<port>[0-9]{1,5})$", re.ASCII)


def parse_address(text: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port" into host (without brackets) and port (0..65535; 0: the kernel chooses).

    Raises ValueError with a sentence that says what an address looks like.
    """
    match = _SHAPE.match(text)
    if match is None or not text.isprintable():
        raise ValueError(f"{text!r} is not an address; write host:port, for example 127.0.0.1:8443 or [::1]:8443")
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} in {text!r} is too large; ports go from 0 to 65535")
    if match["v6"] is None:
        _check_host(match["host"], text)
        return match["host"], port
    try:
        ipaddress.IPv6Address(match["v6"])
    except ValueError:
        raise ValueError(f"{match['v6']!r} in {text!r} is not an IPv6 address; only those stand in brackets") from None
    return match["v6"], port


def _check_host(host: str, text: str) -> None:
    try:
        host.encode("idna")  # as the resolver will
    except UnicodeError:
        raise ValueError(
            f"{host!r} in {text!r} is no host name or address: a part of it is empty or too long"
        ) from None


def format_address(host: str, port: int) -> str:
    """The inverse of `parse_address`: IPv6 hosts get their brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
