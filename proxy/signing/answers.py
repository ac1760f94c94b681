"""What a node's answer means: which reason an error code is, and whether bytes can be the wanted signature. Pure.

Whether they are it, `verification` tells.
"""

from __future__ import annotations

from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.errors import SigningReason

_REASONS = {
    ErrorCode.KEY_NOT_FOUND: SigningReason.KEY_NOT_FOUND,
    ErrorCode.BUSY: SigningReason.BUSY,
    ErrorCode.DEADLINE: SigningReason.TIMEOUT,
    ErrorCode.DENIED: SigningReason.DENIED,
    ErrorCode.DRAINING: SigningReason.DRAINING,
}
RSA_BYTES = range(128, 2049)
"""Lengths of RSA signatures that are believed: keys of 1024 to 16384 bits."""
ED25519_BYTES = 64


def reason_of(code: ErrorCode) -> SigningReason:
    """The reason (metric label) an error code of the wire stands for."""
    return _REASONS.get(code, SigningReason.NODE_ERROR)


def is_plausible(scheme: Scheme, signature: bytes) -> bool:
    """Whether the bytes have the form of a signature of this scheme; cheap enough for every answer.

    ECDSA: one DER SEQUENCE of the stated length (SEC 1 C.5); Ed25519: 64 bytes; RSA: a multiple of 8 bytes in range.
    """
    if scheme.family is KeyFamily.EC:
        return _is_der_sequence(signature)
    if scheme.family is KeyFamily.ED25519:
        return len(signature) == ED25519_BYTES
    return len(signature) in RSA_BYTES and len(signature) % 8 == 0


def _is_der_sequence(data: bytes) -> bool:
    size = len(data)
    if not 8 <= size <= 141 or data[0] != 0x30:
        return False
    # P-521 signatures are longer than 127 bytes and use the long form, 0x81 and one byte.
    start = 3 if data[1] == 0x81 else 2
    return data[start - 1] == size - start and data[start] == 0x02
