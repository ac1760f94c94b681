"""Messages as TLS servers sign them, and as others do."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NIST = {23: ec.SECP256R1(), 24: ec.SECP384R1(), 25: ec.SECP521R1()}
"""By the number of the named curve."""
OPAQUE = {29: 32, 30: 56}
"""x25519 and x448: the length of their points."""


def certificate_verify(seed: bytes = b"", *, context: str = "server", digest: str = "sha256") -> bytes:
    """TLS 1.3: what the server (or client) of a handshake signs; `seed` makes it another handshake."""
    hashed = hashlib.new(digest, seed).digest()
    return b" " * 64 + f"TLS 1.3, {context} CertificateVerify".encode() + b"\0" + hashed


def point_on(curve: int) -> bytes:
    """A fresh public value for a named curve."""
    if curve in OPAQUE:
        return b"\x09" * OPAQUE[curve]
    public = ec.generate_private_key(NIST[curve]).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def key_exchange(curve: int = 29, *, point: bytes | None = None, randoms: bytes = b"r" * 64) -> bytes:
    """TLS 1.2: what a server signs of its ServerKeyExchange."""
    point = point_on(curve) if point is None else point
    return randoms + b"\x03" + curve.to_bytes(2, "big") + bytes([len(point)]) + point
