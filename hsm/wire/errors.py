"""What can be wrong on the wire: error codes of answers, and a peer that breaks the protocol."""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """The error byte of an answer.

    Codes up to 11 are Keyless SSL v1; codes from 0x80 are Sealgate's (docs/protocol.md).
    """

    CRYPTOGRAPHY = 1
    KEY_NOT_FOUND = 2
    READ = 3
    VERSION_MISMATCH = 4
    BAD_OPCODE = 5
    UNEXPECTED_OPCODE = 6
    MALFORMED = 7
    INTERNAL = 8
    CERTIFICATE_NOT_FOUND = 9
    SEALING_KEY_EXPIRED = 10
    REMOTE_CONFIGURATION = 11
    BUSY = 0x80
    """The node's queue is full or the deadline can't be made; another node may sign."""
    DEADLINE = 0x81
    """The deadline passed while the request waited at the node."""
    DENIED = 0x82
    """The access list does not let this client use this key with this scheme."""
    DRAINING = 0x83
    """The node is shutting down and takes no new requests."""
    CANCELLED = 0x84
    """The client took the request back; nobody waits for this answer."""

    @property
    def other_node_may_sign(self) -> bool:
        """Whether asking another node makes sense; a malformed request is malformed everywhere."""
        return self not in (ErrorCode.MALFORMED, ErrorCode.VERSION_MISMATCH, ErrorCode.UNEXPECTED_OPCODE)


class WireError(Exception):
    """The peer broke the framing; the link can't go on and must be closed.

    `reason` is a short sentence for the log.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class MalformedMessage(WireError):
    """A message whose items are wrong inside a sound frame.

    Sessions answer it (a request) or fail its request (an answer), and the link goes on; it does not leave `hsm.wire`.
    """


class VersionMismatch(WireError):
    """A frame of another major version; what follows its header is unknown.

    `request_id` lets a node send one last error before it closes.
    """

    def __init__(self, major: int, request_id: int) -> None:
        super().__init__(f"the peer speaks Keyless major version {major}, not 1")
        self.request_id = request_id


class LinkFull(Exception):
    """The link has as many unanswered requests as it may have; ask another node or wait."""


class LinkClosed(Exception):
    """The link was lost or broke the protocol; it takes no more requests."""
