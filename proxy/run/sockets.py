"""Binds what is listened on, once, in the master: workers come and go, the sockets stay.

Each worker slot has a socket of its own per listener (SO_REUSEPORT), so the kernel spreads clients over workers, and
clients that wait in the queue of a dead worker's socket are served by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field

from hsm.shared.addresses import format_address, parse_address
from hsm.shared.exposition import ListenError


@dataclass(slots=True)
class BoundListener:
    """One address and its sockets, one per worker slot."""

    name: str
    address: str
    """The real one, also where port 0 was asked for."""
    sockets: list[socket.socket] = field(default_factory=list)

    def close(self) -> None:
        """Close all sockets of this process; others may still hold them."""
        for each in self.sockets:
            each.close()


def bind_listener(name: str, address: str, backlog: int, slots: int) -> BoundListener:
    """Bind and listen on `address` once per slot.

    Raises ListenError when another program listens there, also one that would share the port with SO_REUSEPORT:
    it would take a part of our clients.
    """
    family, target = _resolve(address)
    _probe(family, target, address)
    listener = BoundListener(name, address)
    try:
        for _ in range(slots):
            bound = _bind(family, target, address, is_shared=True)
            listener.sockets.append(bound)
            target = bound.getsockname()[:2]  # so that port 0 is chosen once
        for bound in listener.sockets:
            bound.listen(backlog)
    except BaseException:
        listener.close()
        raise
    listener.address = format_address(*target)
    return listener


def bind_single(address: str, backlog: int = 64) -> BoundListener:
    """Bind and listen on an address that one process serves. Raises ListenError."""
    family, target = _resolve(address)
    bound = _bind(family, target, address, is_shared=False)
    bound.listen(backlog)
    return BoundListener("control", format_address(*bound.getsockname()[:2]), [bound])


def close_all(listeners: Iterable[BoundListener]) -> None:
    """Close the sockets of several listeners."""
    for listener in listeners:
        listener.close()


def _resolve(address: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, port = parse_address(address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"can't listen on {address}: {host} is no address here ({error.strerror})") from None
    family, _type, _proto, _name, target = found[0]
    return family, (str(target[0]), int(target[1]))


def _probe(family: socket.AddressFamily, target: tuple[str, int], address: str) -> None:
    """Refuse a port that another program shares. Without SO_REUSEPORT, binding fails where anybody listens."""
    if target[1]:
        with contextlib.closing(_bind(family, target, address, is_shared=False)):
            pass


def _bind(family: socket.AddressFamily, target: tuple[str, int], address: str, *, is_shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(target)
    except OSError as error:
        bound.close()
        raise ListenError(f"can't listen on {address}: {_plain(error)}") from None
    bound.setblocking(False)
    return bound


def _plain(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program (or an older proxy) listens there; stop it or choose another port"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host does not have that address"
    return error.strerror or str(error)
