"""What a node's answer means: which reason an error code is, and whether bytes can be (or are) the wanted signature.

Pure. `check_signature` alone needs `cryptography`, and imports it when it is first called, because in a proxy process
the OpenSSL provider must be in place before that.
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


def check_signature(public_key_pem: bytes, scheme: Scheme, message: bytes, signature: bytes) -> None:
    """Verify a signature over the whole `message`; raises ValueError when it is not the key's.

    Costs some 30 to 150 microseconds: for probes, not for the hot path.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    key = serialization.load_pem_public_key(public_key_pem)
    digests: dict[str | None, hashes.HashAlgorithm] = {
        "sha256": hashes.SHA256(),
        "sha384": hashes.SHA384(),
        "sha512": hashes.SHA512(),
    }
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(digests[scheme.digest]))
        elif isinstance(key, rsa.RSAPublicKey):
            digest = digests[scheme.digest]
            pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
            key.verify(signature, message, pss if scheme.is_pss else padding.PKCS1v15(), digest)
        else:
            raise ValueError("the public key is of a kind that signs no TLS handshake")
    except (InvalidSignature, KeyError) as error:
        raise ValueError(f"the signature does not verify with {scheme.value}") from error
