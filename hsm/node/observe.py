"""The observer of a node: one typed method per thing that happens. `hsm/node/metrics.py` alone makes metrics of it.

Label values come from enums, from the config and from the labels of keys the node holds, never from what a peer sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from hsm.node.access import Denial
from hsm.node.tls_messages import Refusal
from hsm.wire.schemes import Scheme

UNKNOWN = "unknown"
"""Label value for a client or key that the node does not know."""


DenialReason: TypeAlias = Denial | Refusal
"""Why a request was denied: by the access list or the key's attributes, or because of what it wants signed."""


class Outcome(StrEnum):
    """How a request for a signature ended."""

    SIGNED = "signed"
    DENIED = "denied"
    KEY_NOT_FOUND = "key_not_found"
    BUSY = "busy"
    RATE_LIMITED = "rate_limited"
    """The key or the client may not have so many in a second."""
    DEADLINE = "deadline"
    DRAINING = "draining"
    CANCELLED = "cancelled"
    """The client does not want it any more, or went away."""
    FAILED = "failed"
    """The backend could not sign."""
    MALFORMED = "malformed"
    """The payload does not fit the scheme."""


class ConnectionEnd(StrEnum):
    """Why a connection ended."""

    PEER_CLOSED = "peer_closed"
    REFUSED_FULL = "refused_full"
    GAVE_WAY = "gave_way"
    """It had not shown a certificate yet when the node was full and somebody else came."""
    HANDSHAKE_FAILED = "handshake_failed"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    IDLE = "idle"
    NOT_READING = "not_reading"
    """The peer left its answers unread."""
    PROTOCOL = "protocol"
    """The peer broke the framing."""
    TLS = "tls"
    """A record that TLS can't accept."""
    STOPPED = "stopped"
    """The node stops."""


class LaneName(StrEnum):
    """The kinds of work."""

    CHEAP = "cheap"
    """Signed in the event loop."""
    DEAR = "dear"
    """Signed in threads."""
    AWAITED = "awaited"
    """Signed by a token that answers later."""


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane at one moment."""

    queued: int
    queue_limit: int
    in_flight: int
    places: int
    """Most that may be in flight."""
    abandoned: int
    service_s: float
    """Recent time per signature."""


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One token at one moment."""

    name: str
    kind: str
    state: str
    """ "up", or what it is doing instead."""
    keys: int
    """Keys it signs with."""
    lanes: dict[LaneName, LaneStatus]
    details: dict[str, object]
    """What else this kind of token tells: JSON values."""

    @property
    def is_up(self) -> bool:
        """Whether it can sign."""
        return self.state == "up"


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node at one moment, for metrics, health and people."""

    name: str
    version: str
    is_ready: bool
    is_draining: bool
    connections: int
    connections_limit: int
    keys: int
    revision: int
    """Grows with each change of the keys."""
    uptime_s: float
    tokens: tuple[TokenStatus, ...]
    sealed: tuple[str, ...] = ()
    """Tokens whose vault waits for its shares; the node starts when they are open."""


class NodeObserver:
    """Hears what happens and does nothing; subclasses override what they count. Durations are seconds."""

    def connection_opened(self) -> None:
        """A TCP connection was accepted."""

    def connection_ended(self, reason: ConnectionEnd) -> None:
        """A connection is gone, or was closed at once."""

    def handshake_done(self, version: str, duration_s: float) -> None:
        """A client showed its certificate and is connected; `version` such as "TLSv1.3"."""

    def request_signed(self, token: str, key: str, scheme: Scheme, queue_s: float, sign_s: float) -> None:
        """A signature was made and is on its way; `token` is the token's name, `key` the key's label."""

    def request_ended(self, key: str, scheme: Scheme, outcome: Outcome) -> None:
        """A request ended without a signature."""

    def request_denied(self, client: str, reason: DenialReason) -> None:
        """A request was denied; `client` is the pattern of the rule that knows the client, or `UNKNOWN`."""

    def keys_changed(self, labels: tuple[str, ...]) -> None:
        """The node holds other keys than before."""

    def management_done(self, operation: str, *, is_ok: bool) -> None:
        """A management operation ended; `operation` is one of a fixed list."""

    def task_crashed(self, name: str) -> None:
        """A supervised task ended with an exception nobody expected."""
