"""Signature schemes and key types, as they are named everywhere in Sealgate.

A scheme says how a key signs: family, digest and padding. It is what a TLS stack asks for, what travels to a node as
a Keyless opcode and what an access list allows. ECDSA schemes are not bound to a curve, because TLS 1.2 lets any
curve sign any digest (RFC 8422 5.4).
"""

from __future__ import annotations

import hashlib
from enum import Enum, StrEnum

_HASHES = {"sha256": hashlib.sha256, "sha384": hashlib.sha384, "sha512": hashlib.sha512}
DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}


class KeyFamily(StrEnum):
    """What kind of arithmetic a key does."""

    RSA = "rsa"
    EC = "ec"
    ED25519 = "ed25519"


class KeyType(StrEnum):
    """Kind and size of a key."""

    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"
    RSA_OTHER = "rsa-other"
    """An RSA key of another size, for keys that were imported."""
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"

    @property
    def family(self) -> KeyFamily:
        """The family of schemes this type of key can sign."""
        if self.value.startswith("rsa"):
            return KeyFamily.RSA
        return KeyFamily.ED25519 if self is KeyType.ED25519 else KeyFamily.EC


class Scheme(Enum):
    """One way to sign; the value is its name.

    Attributes of a member: `family`; `digest` ("sha256", "sha384", "sha512", or None where the whole message is
    signed); `is_pss`; `opcode` (Keyless SSL v1).
    """

    RSA_PKCS1_SHA256 = ("rsa_pkcs1_sha256", KeyFamily.RSA, "sha256", False, 0x05)
    RSA_PKCS1_SHA384 = ("rsa_pkcs1_sha384", KeyFamily.RSA, "sha384", False, 0x06)
    RSA_PKCS1_SHA512 = ("rsa_pkcs1_sha512", KeyFamily.RSA, "sha512", False, 0x07)
    RSA_PSS_SHA256 = ("rsa_pss_sha256", KeyFamily.RSA, "sha256", True, 0x35)
    RSA_PSS_SHA384 = ("rsa_pss_sha384", KeyFamily.RSA, "sha384", True, 0x36)
    RSA_PSS_SHA512 = ("rsa_pss_sha512", KeyFamily.RSA, "sha512", True, 0x37)
    ECDSA_SHA256 = ("ecdsa_sha256", KeyFamily.EC, "sha256", False, 0x15)
    ECDSA_SHA384 = ("ecdsa_sha384", KeyFamily.EC, "sha384", False, 0x16)
    ECDSA_SHA512 = ("ecdsa_sha512", KeyFamily.EC, "sha512", False, 0x17)
    ED25519 = ("ed25519", KeyFamily.ED25519, None, False, 0x18)

    family: KeyFamily
    digest: str | None
    is_pss: bool
    opcode: int

    def __new__(cls, name: str, family: KeyFamily, digest: str | None, is_pss: bool, opcode: int) -> Scheme:
        member = object.__new__(cls)
        member._value_ = name
        member.family, member.digest, member.is_pss, member.opcode = family, digest, is_pss, opcode
        return member

    @property
    def payload_bytes(self) -> int | None:
        """Length of what a node is asked to sign, or None where any length is allowed (Ed25519)."""
        return DIGEST_BYTES[self.digest] if self.digest else None

    def payload_of(self, message: bytes) -> bytes:
        """What a node signs for `message`: its digest, or the message itself for Ed25519."""
        return _HASHES[self.digest](message).digest() if self.digest else message


SCHEME_BY_OPCODE = {scheme.opcode: scheme for scheme in Scheme}
SCHEME_BY_NAME: dict[str, Scheme] = {str(scheme.value): scheme for scheme in Scheme}
