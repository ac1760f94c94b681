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


def element(tag: int, *parts: bytes) -> bytes:
    """DER (X.690 8.1) of up to 127 bytes of content."""
    content = b"".join(parts)
    return bytes((tag, len(content))) + content


def forged_certificate() -> bytes:
    """What is signed of a certificate for somebody's Ed25519 key, and at once of a TLS 1.2 handshake with x448."""
    algorithm = element(0x30, bytes.fromhex("06082a8648ce3d040302"))  # ecdsa-with-SHA256
    validity = element(0x30, element(0x17, b"250101000000Z"), element(0x17, b"350101000000Z"))
    name = element(0x0C, b"\x03" + (30).to_bytes(2, "big") + bytes((56,)) + b"evil.example")
    subject = element(0x30, element(0x31, element(0x30, bytes.fromhex("0603550403"), name)))
    key = element(0x30, element(0x30, bytes.fromhex("06032b6570")), element(0x03, b"\0" + b"k" * 32))
    return element(0x30, b"\x02\x01\x01", algorithm, element(0x30), validity, subject, key)


def forged_attributes() -> bytes:
    """What is signed of a CMS message (RFC 5652 5.4), and at once of a TLS 1.2 handshake with x448."""
    kind = element(
        0x30, bytes.fromhex("06092a864886f70d010903"), element(0x31, bytes.fromhex("06092a864886f70d010701"))
    )
    digest = element(0x30, bytes.fromhex("06092a864886f70d010904"), element(0x31, element(0x04, b"d" * 32)))
    curve = b"\x03" + (30).to_bytes(2, "big") + bytes((56,))
    free = element(0x30, bytes.fromhex("0603550403"), element(0x31, element(0x04, bytes(25), curve, bytes(7))))
    return element(0x31, kind, free, digest)
