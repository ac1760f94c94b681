"""Where a client's connection is, as one word. Pure."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where a connection is."""

    REFUSED = 0
    HANDSHAKING = 1
    OPEN = 2
    LINGERING = 3
    CLOSED = 4
