"""Which site a client means: its server name (SNI, RFC 6066 3) against the names of the sites.

Pure: no OpenSSL, no files. An exact name wins over a wildcard, a wildcard over the default site. A wildcard stands for
exactly one label, the leftmost (RFC 9525 6.3): "*.example.com" covers "a.example.com", not "a.b.example.com" and not
"example.com".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

MAX_NAME_BYTES = 253
MAX_SHOWN = 80
"""How much of a refused name an error repeats."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_HOST = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

T = TypeVar("T")


def normalise_name(name: str) -> str:
    """The form in which names are compared: ASCII (IDNA A-labels), lower case, no trailing dot.

    One leading "*." label is allowed. Raises ValueError, saying what is wrong, for what is no DNS name: an IP address
    too, because a server name never is one (RFC 6066 3).
    """
    bare = name[:-1] if name.endswith(".") else name
    star, rest = ("*.", bare[2:]) if bare.startswith("*.") else ("", bare)
    if not rest.isascii():
        rest = _to_a_labels(rest)
    rest = rest.lower()
    labels = rest.split(".")
    if len(star) + len(rest) > MAX_NAME_BYTES:
        raise ValueError(f"{name[:MAX_SHOWN]!r} is longer than {MAX_NAME_BYTES} bytes")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{name[:MAX_SHOWN]!r} is not a DNS name, nor a DNS name behind one leading '*.'")
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"{name[:MAX_SHOWN]!r} looks like an IP address: clients send DNS names only")
    return star + rest


def _to_a_labels(name: str) -> str:
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError(f"{name[:MAX_SHOWN]!r} cannot be written as an internationalised DNS name") from None


def clean_server_name(sent: bytes) -> str:
    """What a client sent as its server name, lower case and without a trailing dot; "" for what is no DNS name.

    So nothing that a client made up reaches logs and nodes, and a senseless name counts like none.
    """
    name = sent.decode("latin-1").lower().removesuffix(".")
    return name if len(name) <= MAX_NAME_BYTES and _HOST.fullmatch(name) else ""


def is_covered(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of a certificate's `patterns` covers `name`; all are normalised, `name` may be a wildcard.

    A wildcard name needs the same wildcard in the certificate.
    """
    _, dot, parent = name.partition(".")
    accepted = {name, f"*.{parent}"} if dot else {name}
    return not accepted.isdisjoint(patterns)


class SiteNames(NamedTuple, Generic[T]):
    """One site as the table needs it."""

    names: tuple[str, ...]
    is_default: bool
    value: T


class SiteTable(Generic[T]):
    """Finds what belongs to a server name. Built once; looking up does not change it. Values are truthy."""

    def __init__(self, sites: Iterable[SiteNames[T]], *, is_strict: bool = False) -> None:
        """`is_strict`: clients without a known name get nothing, not even the default site.

        Raises ValueError for an invalid name, a name that two sites claim, and a second default site.
        """
        self._is_strict = is_strict
        self._exact: dict[str, T] = {}
        self._wildcard: dict[str, T] = {}
        self._default: list[T] = []
        for site in sites:
            for name in site.names:
                self._add(normalise_name(name), site.value)
            if site.is_default:
                self._default.append(site.value)
        if len(self._default) > 1:
            raise ValueError("more than one site is the default")

    def _add(self, name: str, value: T) -> None:
        table, key = (self._wildcard, name[2:]) if name.startswith("*.") else (self._exact, name)
        if table.get(key, value) is not value:
            raise ValueError(f"two sites have the name {name!r}")
        table[key] = value

    def find(self, server_name: str) -> T | None:
        """The site of a client with this `clean_server_name` ("" for none), or None where it must be refused."""
        if server_name:
            found = self._exact.get(server_name) or self._wildcard.get(server_name.partition(".")[2])
            if found is not None:
                return found
        return None if self._is_strict or not self._default else self._default[0]
