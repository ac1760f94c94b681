"""Why something failed: enums that are metric labels and log fields, and the errors that carry them."""

from __future__ import annotations

from enum import StrEnum


class ErrorSource(StrEnum):
    """Who is at fault."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    HSM = "hsm"
    INTERNAL = "internal"


class SigningReason(StrEnum):
    """Why a job or an attempt got no signature."""

    NO_NODE = "no_node"
    """No node that is up holds the key."""
    KEY_NOT_FOUND = "key_not_found"
    BUSY = "busy"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    """The job's deadline passed, however many nodes were asked."""
    LINK_LOST = "link_lost"
    DENIED = "denied"
    DRAINING = "draining"
    NODE_ERROR = "node_error"
    WRONG_SIGNATURE = "wrong_signature"
    QUEUE_FULL = "queue_full"
    """This proxy has too many jobs waiting already."""
    SHED = "shed"
    """It would not have been its turn in time, so it was refused at once."""
    OUTRUN = "outrun"
    """Another node, which was asked beside this one, was faster; ends attempts only."""
    CANCELLED = "cancelled"
    """The client went away."""
    STOPPED = "stopped"


class TlsReason(StrEnum):
    """Why a TLS connection failed."""

    TIMEOUT = "handshake_timeout"
    CLIENT_CLOSED = "client_closed"
    """The client closed during the handshake."""
    NOT_TLS = "not_tls"
    """The first bytes were no ClientHello (plain HTTP, for example)."""
    PROTOCOL_VERSION = "protocol_version"
    NO_SHARED_CIPHER = "no_shared_cipher"
    NO_SHARED_GROUP = "no_shared_group"
    NO_SHARED_SIGNATURE = "no_shared_signature_algorithm"
    UNKNOWN_SITE = "unknown_site"
    NO_SHARED_ALPN = "no_shared_alpn"
    CLIENT_ALERT = "client_alert"
    """The client refused, for example because it does not trust the certificate."""
    SIGNING_FAILED = "signing_failed"
    BAD_RECORD = "bad_record"
    RENEGOTIATION = "renegotiation"
    TRUNCATED = "truncated"
    """The connection ended without close_notify after the handshake."""
    OVERLOADED = "overloaded"
    OTHER = "other"


class HttpReason(StrEnum):
    """Why a request was refused or failed."""

    BAD_REQUEST = "bad_request"
    BAD_FRAMING = "bad_framing"
    """Content-Length and Transfer-Encoding that smuggling is made of (RFC 9112 6.3)."""
    BAD_HOST = "bad_host"
    HEADERS_TOO_LARGE = "headers_too_large"
    BODY_TOO_LARGE = "body_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    CLIENT_ABORTED = "client_aborted"
    UPSTREAM_CONNECT = "upstream_connect"
    UPSTREAM_CONNECT_TIMEOUT = "upstream_connect_timeout"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CLOSED = "upstream_closed"
    UPSTREAM_BAD_RESPONSE = "upstream_bad_response"
    UPSTREAM_QUEUE_FULL = "upstream_queue_full"
    UNSUPPORTED = "unsupported"
    INTERNAL = "internal"


class ProxyError(Exception):
    """Base of what the proxy raises; `source` says who is at fault and `reason` is the metric label."""

    source: ErrorSource = ErrorSource.INTERNAL

    def __init__(self, reason: StrEnum, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}" if self.detail else self.reason.value


class SigningError(ProxyError):
    """A job ended without a signature."""

    source = ErrorSource.HSM
    reason: SigningReason

    def __init__(self, reason: SigningReason, detail: str = "", *, node: str = "") -> None:
        super().__init__(reason, detail)
        self.node = node
