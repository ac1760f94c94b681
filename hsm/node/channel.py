"""One TLS server connection over memory BIOs: ciphertext and plaintext in, plaintext and ciphertext out. No sockets.

The node runs TLS itself, and not through the event loop's transport, so that handshakes count as connections from
their first byte, failures have a reason, and all answers of one loop iteration share one record.
"""

from __future__ import annotations

import ssl
from typing import Any

READ_BYTES = 65_536


class ChannelError(Exception):
    """The connection can't go on; what `data_to_send` still holds (an alert) may be sent. `str()` is a short reason."""


class TlsChannel:
    """The server's end. Feed `receive`, send what `data_to_send` returns after each call."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.is_connected = False
        """The handshake is done and the peer's certificate verified."""
        self.is_closed_by_peer = False
        """The peer said that it sends no more."""

    def receive(self, ciphertext: bytes) -> bytes:
        """Takes what came from the network; returns the plaintext in it. Raises ChannelError."""
        self._incoming.write(ciphertext)
        try:
            if not self.is_connected and not self._shake_hands():
                return b""
            return self._read()
        except ssl.SSLError as error:
            raise ChannelError(_reason(error)) from None

    def send(self, plaintext: bytes) -> None:
        """Encrypts; only once `is_connected`. Raises ChannelError."""
        if not plaintext:
            return
        try:
            # Memory BIOs take any amount: a write is always whole, in records of 16 KiB.
            self._tls.write(plaintext)
        except ssl.SSLError as error:
            raise ChannelError(_reason(error)) from None

    def close(self) -> None:
        """Puts a close_notify into the outgoing bytes."""
        if self.is_connected:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                # Nearly always "want read": we don't wait for the peer's own close_notify (RFC 8446 6.1).
                return

    def data_to_send(self) -> bytes:
        """Ciphertext for the network; empties the buffer."""
        return self._outgoing.read() if self._outgoing.pending else b""

    @property
    def version(self) -> str:
        """Such as "TLSv1.3"; "" before the handshake is done."""
        return (self._tls.version() or "") if self.is_connected else ""

    def peer_certificate(self) -> dict[str, Any]:
        """The peer's verified certificate as `ssl` describes it; empty where there is none."""
        return dict(self._tls.getpeercert() or {})

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.is_connected = True
        return True

    def _read(self) -> bytes:
        chunks = []
        # Asking only while there is something to read saves an exception per call.
        while self._incoming.pending or self._tls.pending():
            try:
                chunk = self._tls.read(READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                chunk = b""
            if not chunk:
                self.is_closed_by_peer = True
                break
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words, such as "peer did not return a certificate"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate was refused: {error.verify_message}"
    return (error.reason or "TLS failed").lower().replace("_", " ")
