"""Values that come out of sessions: what a node asks to be done and what a client is told.

Events are msgspec structs because several are made for each signature; they are frozen and match by position like
dataclasses. This module knows no bytes and no sessions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import KeyType, Scheme


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key a node holds."""

    ski: bytes
    """SHA-1 of the subjectPublicKey bit string, 20 bytes (RFC 5280 4.2.1.2 method 1)."""
    type: KeyType
    label: str


# What a client is told. Every request ends with exactly one of Signed, Ponged, KeysListed, Failed, Expired and Lost,
# unless it was cancelled: then nothing follows.


class Signed(msgspec.Struct, frozen=True, gc=False):
    """The node signed."""

    request_id: int
    signature: bytes


class Ponged(msgspec.Struct, frozen=True, gc=False):
    """The node answered a ping."""

    request_id: int
    payload: bytes


class KeysListed(msgspec.Struct, frozen=True):
    """Every key that this client may use at the node, as of `revision`."""

    request_id: int
    keys: tuple[KeyEntry, ...]
    revision: int


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The node answered with an error, or with something that is no answer to the request (INTERNAL)."""

    request_id: int
    code: ErrorCode
    detail: str = ""
    """A sentence for people, at most 512 bytes, printable; empty from plain Keyless nodes."""
    retry_after_s: float | None = None
    queue_depth: int | None = None
    """Requests that wait at the node."""


class Expired(msgspec.Struct, frozen=True, gc=False):
    """The deadline passed without an answer."""

    request_id: int


class Lost(msgspec.Struct, frozen=True, gc=False):
    """The link was lost before the answer; the node may or may not have signed."""

    request_id: int


class KeysChanged(msgspec.Struct, frozen=True, gc=False):
    """The node's keys are not what it listed before; list them again."""

    revision: int


class DrainingAnnounced(msgspec.Struct, frozen=True, gc=False):
    """The node is shutting down: it finishes what it has and wants no new requests."""


ClientEvent: TypeAlias = Signed | Ponged | KeysListed | Failed | Expired | Lost | KeysChanged | DrainingAnnounced


# What a node is asked. `request_id` is the session's own number for the request: unlike the id on the wire it never
# names a second request on the same link, so a reply that comes after a cancel can't reach a stranger.


class SignRequested(msgspec.Struct, frozen=True, gc=False):
    """A client wants a signature; answer with `reply_signature` or `reply_error`."""

    request_id: int
    ski: bytes
    scheme: Scheme
    payload: bytes
    """The digest, of the scheme's length; for Ed25519 the whole message."""
    deadline_s: float | None
    """Seconds from the arrival of the request after which nobody waits for the answer; None if not told."""
    server_name: str
    """The SNI of the handshake, printable ASCII, or ""; not verified by anyone."""
    client_ip: str
    trace: str
    """A W3C traceparent, or ""."""
    message: bytes | None = None
    """The whole message that `payload` is the digest of; None if the client did not send it. For Ed25519: `payload`."""


class KeysRequested(msgspec.Struct, frozen=True, gc=False):
    """A client wants to know the keys it may use; answer with `reply_keys` or `reply_error`."""

    request_id: int
    deadline_s: float | None


class Cancelled(msgspec.Struct, frozen=True, gc=False):
    """A client no longer wants an answer. The session has answered; a later reply is dropped.

    Work that can't be stopped still occupies the node: admission counts it until it ends.
    """

    request_id: int


ServerEvent: TypeAlias = SignRequested | KeysRequested | Cancelled
