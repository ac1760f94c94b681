"""What a TLS engine tells its edge: frozen values, in the order they happened. No OpenSSL here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hsm.wire.schemes import Scheme
from proxy.base.errors import TlsReason


@dataclass(frozen=True, slots=True)
class NeedSignature:
    """The handshake stands still until `complete_signature`, `fail_signature` or `abort` is called."""

    ski: bytes
    """The key: SHA-1 of the public key's bit string, 20 bytes."""
    scheme: Scheme
    message: bytes
    """The whole message to be signed, not its digest."""
    site: str
    server_name: str
    """The SNI the client sent, normalised, or ""."""


@dataclass(frozen=True, slots=True)
class HandshakeDone:
    """A TLS session is active: plaintext may be sent."""

    site: str
    server_name: str
    version: str
    """"TLSv1.2" or "TLSv1.3"."""
    cipher: str
    group: str
    """Key exchange group as OpenSSL names it, or "" where there was none (a session resumed by TLS 1.2)."""
    alpn: str
    """Protocol agreed by ALPN, or "" where the client offered none."""
    is_resumed: bool


@dataclass(frozen=True, slots=True)
class Plaintext:
    """Bytes from the client; several records may have been joined."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The client sent close_notify: nothing more will come. It may still be sent to (RFC 8446 6.1)."""


@dataclass(frozen=True, slots=True)
class TlsFailed:
    """The connection is of no more use: send what `data_to_send` returns (an alert, perhaps) and close it."""

    reason: TlsReason
    detail: str
    """For a log line: what OpenSSL said. Contains no secret and nothing the client chose."""
    site: str
    """The site, or "" where none was chosen yet."""


TlsEvent: TypeAlias = NeedSignature | HandshakeDone | Plaintext | PeerClosed | TlsFailed
