"""What a TLS engine tells its edge: frozen values, in the order they happened. No OpenSSL here.

Structs rather than dataclasses, because several are made for each handshake.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hsm.wire.schemes import Scheme
from proxy.base.errors import TlsReason


class NeedSignature(msgspec.Struct, frozen=True):
    """The handshake stands still until `complete_signature`, `fail_signature` or `abort` is called."""

    ski: bytes
    """The key: SHA-1 of the public key's bit string, 20 bytes."""
    scheme: Scheme
    message: bytes
    """The whole message to be signed, not its digest."""
    site: str
    server_name: str
    """The SNI the client sent, normalised, or ""."""


class HandshakeDone(msgspec.Struct, frozen=True):
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


class Plaintext(msgspec.Struct, frozen=True):
    """Bytes from the client; several records may have been joined."""

    data: bytes


class PeerClosed(msgspec.Struct, frozen=True):
    """The client sent close_notify: nothing more will come. It may still be sent to (RFC 8446 6.1)."""


class TlsFailed(msgspec.Struct, frozen=True):
    """The connection is of no more use: send what `data_to_send` returns (an alert, perhaps) and close it."""

    reason: TlsReason
    detail: str
    """For a log line: what OpenSSL said. Contains no secret and nothing the client chose."""
    site: str
    """The site, or "" where none was chosen yet."""


TlsEvent: TypeAlias = NeedSignature | HandshakeDone | Plaintext | PeerClosed | TlsFailed
