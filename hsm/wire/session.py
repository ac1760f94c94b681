"""The names other rooms use of the wire: both sessions and what comes out of them."""

from __future__ import annotations

from hsm.wire.client_session import ClientSession
from hsm.wire.errors import ErrorCode, LinkClosed, LinkFull, WireError
from hsm.wire.messages import (
    Cancelled,
    ClientEvent,
    DrainingAnnounced,
    Expired,
    Failed,
    KeyEntry,
    KeysChanged,
    KeysListed,
    KeysRequested,
    Lost,
    Ponged,
    ServerEvent,
    Signed,
    SignRequested,
)
from hsm.wire.server_session import ServerSession

__all__ = [
    "Cancelled",
    "ClientEvent",
    "ClientSession",
    "DrainingAnnounced",
    "ErrorCode",
    "Expired",
    "Failed",
    "KeyEntry",
    "KeysChanged",
    "KeysListed",
    "KeysRequested",
    "LinkClosed",
    "LinkFull",
    "Lost",
    "Ponged",
    "ServerEvent",
    "ServerSession",
    "SignRequested",
    "Signed",
    "WireError",
]
