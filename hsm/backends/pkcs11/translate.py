"""Between TLS's words and PKCS#11's: schemes and mechanisms, signatures, public keys. Pure.

A token's answer is looked at before it is believed: what has the wrong length or form becomes an error, never a
signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import der
from hsm.backends.pkcs11.structures import value_bytes
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

# RFC 8017 9.2, note 1: the DER of DigestInfo up to the digest.
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
_PSS = {
    "sha256": (c.CKM_SHA256, c.CKG_MGF1_SHA256, 32),
    "sha384": (c.CKM_SHA384, c.CKG_MGF1_SHA384, 48),
    "sha512": (c.CKM_SHA512, c.CKG_MGF1_SHA512, 64),
}
_RSA_ENCRYPTION = bytes.fromhex("06092a864886f70d010101")  # RFC 8017 A.1
_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")  # RFC 5480 2.1.1
_ED25519 = bytes.fromhex("06032b6570")  # RFC 8410 3: 1.3.101.112
_EDWARDS25519_NAME = der.wrap(der.PRINTABLE, b"edwards25519")  # PKCS#11 3.0, 2.3.7
_EDWARDS25519_OID = bytes.fromhex("06092b06010401da470f01")  # 1.3.6.1.4.1.11591.15.1, PKCS#11 3.0's other form
_CURVES = {
    KeyType.P256: (bytes.fromhex("06082a8648ce3d030107"), 32),
    KeyType.P384: (bytes.fromhex("06052b81040022"), 48),
    KeyType.P521: (bytes.fromhex("06052b81040023"), 66),
}
_TYPE_OF_CURVE = {oid: type_ for type_, (oid, _) in _CURVES.items()}
_RSA_BITS = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}
_TYPE_OF_BITS = {bits: type_ for type_, bits in _RSA_BITS.items()}
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_ED25519_BYTES = 32
SKI_BYTES = 20


class TranslationError(ValueError):
    """What the token gave can't be used. The text is a sentence without a full stop; it holds no secret."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key as certificates carry it."""

    type: KeyType
    spki: bytes
    """SubjectPublicKeyInfo, DER."""
    ski: bytes
    """SHA-1 of its bit string (RFC 5280 4.2.1.2, method 1)."""
    signature_bytes: int
    """Length of what the token gives for a signature: RSA the modulus, ECDSA r and s, Ed25519 64."""


def mechanism_of(scheme: Scheme) -> tuple[int, bytes]:
    """The mechanism that makes a scheme's signatures, and its parameter as it stands in memory."""
    if scheme.family is KeyFamily.EC:
        return c.CKM_ECDSA, b""
    if scheme.family is KeyFamily.ED25519:
        return c.CKM_EDDSA, b""
    if not scheme.is_pss:
        return c.CKM_RSA_PKCS, b""
    assert scheme.digest is not None
    # CK_RSA_PKCS_PSS_PARAMS: hashAlg, mgf, sLen. RFC 8446 4.2.3: MGF1 with the same digest, salt as long as it.
    return c.CKM_RSA_PKCS_PSS, b"".join(value_bytes(number) for number in _PSS[scheme.digest])


def prefix_of(scheme: Scheme) -> bytes:
    """What the mechanism wants before the payload: CKM_RSA_PKCS signs a DigestInfo."""
    if scheme.family is not KeyFamily.RSA or scheme.is_pss or scheme.digest is None:
        return b""
    return _DIGEST_INFO[scheme.digest]


def signature_of(scheme: Scheme, raw: bytes, expected_bytes: int) -> bytes:
    """The signature as TLS carries it. Raises TranslationError where its length is not what the key makes."""
    if len(raw) != expected_bytes:
        raise TranslationError(f"the token gave a signature of {len(raw)} bytes, and {expected_bytes} were due")
    return ecdsa_der(raw) if scheme.family is KeyFamily.EC else raw


def ecdsa_der(raw: bytes) -> bytes:
    """r and s, one after the other, as RFC 3279 2.2.3 has them. Raises TranslationError for zero."""
    half = len(raw) // 2
    r, s = raw[:half].lstrip(b"\0"), raw[half:].lstrip(b"\0")
    if not r or not s:
        raise TranslationError("the token gave a signature with a zero in it")
    if r[0] & 0x80:
        r = b"\0" + r
    if s[0] & 0x80:
        s = b"\0" + s
    size = len(r) + len(s) + 4
    head = bytes((0x30, size)) if size < 0x80 else bytes((0x30, 0x81, size))
    return b"".join((head, bytes((0x02, len(r))), r, bytes((0x02, len(s))), s))


def rsa_public_key(modulus: bytes, exponent: bytes) -> PublicKey:
    """From CKA_MODULUS and CKA_PUBLIC_EXPONENT (big-endian). Raises TranslationError."""
    n, e = int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")
    bits = n.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise TranslationError(f"it is an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are used")
    if e < 3 or e % 2 == 0 or n % 2 == 0 or e >= n:
        raise TranslationError("its modulus and exponent are no RSA public key")
    key = der.wrap(der.SEQUENCE, der.integer(n), der.integer(e))
    algorithm = der.wrap(der.SEQUENCE, _RSA_ENCRYPTION, der.wrap(der.NULL))
    return _public(_TYPE_OF_BITS.get(bits, KeyType.RSA_OTHER), algorithm, key, (bits + 7) // 8)


def ec_public_key(parameters: bytes, point: bytes) -> PublicKey:
    """From CKA_EC_PARAMS and CKA_EC_POINT (an OCTET STRING, or raw as some tokens have it). Raises TranslationError."""
    type_ = curve_of(parameters)
    if type_ is KeyType.ED25519:
        algorithm = der.wrap(der.SEQUENCE, _ED25519)
        return _public(type_, algorithm, _unwrapped(point, _ED25519_BYTES, None), 64)
    oid, size = _CURVES[type_]
    algorithm = der.wrap(der.SEQUENCE, _EC_PUBLIC_KEY, oid)
    return _public(type_, algorithm, _unwrapped(point, 1 + 2 * size, 0x04), 2 * size)


def curve_of(parameters: bytes) -> KeyType:
    """The type of key that CKA_EC_PARAMS means. Raises TranslationError."""
    if parameters in (_EDWARDS25519_NAME, _EDWARDS25519_OID, _ED25519):
        return KeyType.ED25519
    if type_ := _TYPE_OF_CURVE.get(parameters):
        return type_
    raise TranslationError("its curve is not P-256, P-384, P-521 or Ed25519")


def curve_parameters(type_: KeyType) -> tuple[bytes, ...]:
    """CKA_EC_PARAMS of a type, in the order in which tokens should be tried: 3.0 has several for Ed25519."""
    if type_ is KeyType.ED25519:
        return _EDWARDS25519_NAME, _ED25519, _EDWARDS25519_OID
    return (_CURVES[type_][0],)


def rsa_bits(type_: KeyType) -> int:
    """CKA_MODULUS_BITS of a type. Raises TranslationError for RSA keys of no certain size."""
    if type_ not in _RSA_BITS:
        known = ", ".join((*_RSA_BITS, *_CURVES, KeyType.ED25519))
        raise TranslationError(f"keys of type {type_.value} can't be generated; choose one of {known}")
    return _RSA_BITS[type_]


def public_key_of_spki(spki: bytes) -> PublicKey:
    """From a SubjectPublicKeyInfo: CKA_PUBLIC_KEY_INFO, or a certificate's. Raises TranslationError."""
    try:
        (tag, algorithm, _), (bits_tag, bits, _) = der.elements(der.only(spki, der.SEQUENCE))
        if (tag, bits_tag) != (der.SEQUENCE, der.BIT_STRING) or bits[:1] != b"\0":
            raise TranslationError("its public key is malformed")
        return _of_parts([whole for _, _, whole in der.elements(algorithm)], bits[1:])
    except TranslationError:
        raise
    except ValueError:
        raise TranslationError("its public key is malformed") from None


def _of_parts(algorithm: list[bytes], key: bytes) -> PublicKey:
    if algorithm == [_RSA_ENCRYPTION, der.wrap(der.NULL)]:
        (tag, modulus, _), (other, exponent, _) = der.elements(der.only(key, der.SEQUENCE))
        if (tag, other) == (der.INTEGER, der.INTEGER) and not modulus[:1] > b"\x7f" and not exponent[:1] > b"\x7f":
            return rsa_public_key(modulus, exponent)
    if algorithm == [_ED25519]:
        return ec_public_key(_ED25519, der.wrap(der.OCTET_STRING, key))
    if len(algorithm) == 2 and algorithm[0] == _EC_PUBLIC_KEY:
        return ec_public_key(algorithm[1], key)
    raise TranslationError("its public key is of an unknown kind")


def _unwrapped(point: bytes, size: int, first: int | None) -> bytes:
    """A point of `size` bytes, out of its OCTET STRING where it is in one."""
    try:
        raw = der.only(point, der.OCTET_STRING) if len(point) != size else point
    except der.DerError:
        raw = b""
    if len(raw) != size or (first is not None and raw[0] != first):
        raise TranslationError(f"its public point has {len(point)} bytes of an unknown form")
    return raw


def _public(type_: KeyType, algorithm: bytes, key: bytes, signature_bytes: int) -> PublicKey:
    spki = der.wrap(der.SEQUENCE, algorithm, der.wrap(der.BIT_STRING, b"\0", key))
    return PublicKey(type_, spki, hashlib.sha1(key, usedforsecurity=False).digest(), signature_bytes)
