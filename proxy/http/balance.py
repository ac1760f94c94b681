"""Which server gets a request: the one with the fewest requests, in turn among equals. Pure; knows no sockets.

A server that could not be connected to is passed over until `down_until`, unless all others are down as well: trying
the one that has been down longest costs less than refusing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar


class Load(Protocol):
    """What the choice needs to know of a server."""

    @property
    def busy(self) -> int:
        """Requests that it has under way."""

    @property
    def down_until(self) -> float:
        """Loop time until which it is passed over."""

    @property
    def has_room(self) -> bool:
        """Whether an unused connection is there or another may be opened."""


S = TypeVar("S", bound=Load)


def choose(servers: Sequence[S], turn: int, now: float, excluded: Collection[S]) -> S | None:
    """Return the server for the next request, None where none has room; `turn` counts up with every request."""
    count = len(servers)
    best: S | None = None
    fallback: S | None = None
    for offset in range(count):
        server = servers[(turn + offset) % count]
        if server in excluded or not server.has_room:
            continue
        if server.down_until > now:
            if fallback is None or server.down_until < fallback.down_until:
                fallback = server
        elif best is None or server.busy < best.busy:
            best = server
    if best is not None:
        return best
    # A healthy server that is merely full is worth the wait; only when none is healthy is a down one tried.
    is_any_healthy = any(server.down_until <= now and server not in excluded for server in servers)
    return None if is_any_healthy else fallback
