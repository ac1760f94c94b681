"""Targets and hosts (RFC 9112 3.2, RFC 9110 7.2): what a request is about, and which site that is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from proxy.base.errors import HttpReason
from proxy.http.problem import HttpProblem, bad_request

# Narrower than RFC 3986's reg-name: no DNS name needs its sub-delims, and lists of hosts are made of them.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]*)(.*)", re.DOTALL)


def _bad_host(detail: str) -> HttpProblem:
    return HttpProblem(400, HttpReason.BAD_HOST, detail)


def read_authority(method: bytes, target: bytes, minor: int, hosts: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return (target in origin or asterisk form, host as it is to be forwarded; b"" only for HTTP/1.0).

    An absolute target overrules Host (RFC 9112 3.2.2). Raises HttpProblem 400.
    """
    if len(hosts) > 1:
        raise _bad_host("more than one Host field")
    if not hosts and minor == 1:
        raise _bad_host("no Host field")
    host = hosts[0] if hosts else b""
    if hosts and not _HOST.fullmatch(host):
        raise _bad_host("malformed Host field")
    if target[:1] == b"/":
        if b"#" in target:
            raise bad_request("a fragment in the request target")
        return target, host
    return _read_other_form(method, target, host)


def _read_other_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    if target == b"*":
        if method != b"OPTIONS":
            raise bad_request("the request target * is for OPTIONS only")
        return target, host
    match = _ABSOLUTE.fullmatch(target)
    if match is None or b"#" in target:
        raise bad_request("malformed request target")
    authority, path = match.groups()
    if not _HOST.fullmatch(authority):
        raise _bad_host("malformed authority in the request target")
    if not path and method == b"OPTIONS":
        return b"*", authority
    return (path if path[:1] == b"/" else b"/" + path), authority


def host_name(host: bytes) -> str:
    """Return the name in a Host value, lower case, without port and final dot."""
    name = host.decode("ascii").lower()
    if name.startswith("["):
        return name[: name.index("]") + 1]
    return name.partition(":")[0].rstrip(".")


class SiteNames:
    """Finds the site of a host: exact name, then one-label wildcard, then the default site."""

    def __init__(self, sites: Iterable[tuple[str, Sequence[str]]], default: str = "") -> None:
        self._exact: dict[str, str] = {}
        self._wildcard: dict[str, str] = {}
        self._default = default
        for site, names in sites:
            for name in names:
                lowered = name.lower().rstrip(".")
                if lowered.startswith("*."):
                    self._wildcard.setdefault(lowered[2:], site)
                else:
                    self._exact.setdefault(lowered, site)

    def find_default(self) -> str:
        """Return the default site's name, or "" where none is."""
        return self._default

    def find(self, host: bytes) -> str:
        """Return the site's name; the default's, or "", where no site has the name."""
        name = host_name(host)
        site = self._exact.get(name)
        if site is None:
            site = self._wildcard.get(name.partition(".")[2], self._default)
        return site
