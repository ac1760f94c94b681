"""What travels between rooms: one wanted signature, and who a client is. Structs, because each handshake makes them."""

from __future__ import annotations

import msgspec

from hsm.wire.schemes import Scheme


class SignJob(msgspec.Struct, frozen=True, gc=False):
    """One wanted signature of one handshake."""

    ski: bytes
    """The key: SHA-1 of the public key's bit string, 20 bytes."""
    scheme: Scheme
    message: bytes
    """The whole message to be signed; `payload` is what a node is asked to sign."""
    site: str
    deadline: float
    """Loop time in seconds at which nobody waits for the signature any more."""
    client_ip: str = ""
    server_name: str = ""

    @property
    def payload(self) -> bytes:
        """The digest, or the message where the scheme signs messages."""
        return self.scheme.payload_of(self.message)


class ConnectionInfo(msgspec.Struct, frozen=True, gc=False):
    """What upper layers may know of a client's connection; `transport.get_extra_info(CONNECTION_INFO)`."""

    client_ip: str
    client_port: int
    local_ip: str
    local_port: int
    listener: str
    site: str
    server_name: str
    """The SNI the client sent, or ""."""
    tls_version: str
    """"TLSv1.2" or "TLSv1.3", "" on a plain connection."""
    cipher: str
    alpn: str
    is_resumed: bool


CONNECTION_INFO = "sealgate.connection"
