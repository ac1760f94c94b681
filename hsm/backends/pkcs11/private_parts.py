"""A private key from outside, taken apart into the attributes that C_CreateObject wants. Pure.

`cryptography` is loaded only when a key is imported: the worker of a node never needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import der
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.structures import Template
from hsm.backends.pkcs11.translate import PublicKey, TranslationError, curve_parameters, public_key_of_spki

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateNumbers

_POINT_BYTES_BEFORE = 1
"""A BIT STRING begins with the number of its unused bits."""


@dataclass(frozen=True, slots=True, repr=False)
class PrivateParts:
    """Attributes of both objects, without class, names and permissions. It has no `repr`."""

    public_key: PublicKey
    private: Template
    public: Template


def parts_of(pkcs8: bytes) -> PrivateParts:
    """Take a PKCS#8 key (DER, not encrypted) apart. Raises Refused where it is none, or of a kind not used here."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

    try:
        key = load_der_private_key(pkcs8, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused(Failure.INVALID, "what should be imported is no private key in PKCS#8") from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise Refused(Failure.INVALID, "keys must be RSA, EC on P-256, P-384 or P-521, or Ed25519")
    try:
        public = public_key_of_spki(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except TranslationError as error:
        raise Refused(Failure.INVALID, f"the key can't be imported: {error}") from None
    if isinstance(key, RSAPrivateKey):
        return _rsa(public, key.private_numbers())
    if isinstance(key, Ed25519PrivateKey):
        return _on_curve(public, c.CKK_EC_EDWARDS, key.private_bytes_raw())
    size = public.signature_bytes // 2
    return _on_curve(public, c.CKK_EC, key.private_numbers().private_value.to_bytes(size, "big"))


def _rsa(public: PublicKey, numbers: RSAPrivateNumbers) -> PrivateParts:
    shared: Template = {
        c.CKA_KEY_TYPE: c.CKK_RSA,
        c.CKA_MODULUS: _big(numbers.public_numbers.n),
        c.CKA_PUBLIC_EXPONENT: _big(numbers.public_numbers.e),
    }
    private: Template = {
        **shared,
        c.CKA_PRIVATE_EXPONENT: _big(numbers.d),
        c.CKA_PRIME_1: _big(numbers.p),
        c.CKA_PRIME_2: _big(numbers.q),
        c.CKA_EXPONENT_1: _big(numbers.dmp1),
        c.CKA_EXPONENT_2: _big(numbers.dmq1),
        c.CKA_COEFFICIENT: _big(numbers.iqmp),
    }
    return PrivateParts(public, private, shared)


def _on_curve(public: PublicKey, kind: int, value: bytes) -> PrivateParts:
    shared: Template = {c.CKA_KEY_TYPE: kind, c.CKA_EC_PARAMS: curve_parameters(public.type)[0]}
    (_, bits, _) = der.elements(der.only(public.spki, der.SEQUENCE))[1]
    point = der.wrap(der.OCTET_STRING, bits[_POINT_BYTES_BEFORE:])
    return PrivateParts(public, {**shared, c.CKA_VALUE: value}, {**shared, c.CKA_EC_POINT: point})


def _big(number: int) -> bytes:
    """A Big Integer of PKCS#11: unsigned, most significant byte first."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
