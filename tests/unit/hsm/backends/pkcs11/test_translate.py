from __future__ import annotations

import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import SubjectKeyIdentifier
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import der
from hsm.backends.pkcs11.translate import (
    TranslationError,
    curve_of,
    curve_parameters,
    ec_public_key,
    ecdsa_der,
    mechanism_of,
    prefix_of,
    public_key_of_spki,
    rsa_bits,
    rsa_public_key,
    signature_of,
)
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.P384: ec.SECP384R1(), KeyType.P521: ec.SECP521R1()}
RSA = rsa.generate_private_key(65537, 2048)


def spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def big(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


@given(st.data(), st.sampled_from([32, 48, 66]))
def test_raw_ecdsa_signatures_become_der(data: st.DataObject, size: int) -> None:
    top = 2 ** (8 * size) - 1
    near_zero = st.integers(1, 300)
    r, s = (data.draw(st.integers(1, top) | near_zero) for _ in "rs")
    made = ecdsa_der(r.to_bytes(size, "big") + s.to_bytes(size, "big"))
    assert made == encode_dss_signature(r, s)
    assert decode_dss_signature(made) == (r, s)


@pytest.mark.parametrize("raw", [bytes(64), bytes(32) + b"\1" * 32, b"\1" * 32 + bytes(32), b""])
def test_a_zero_in_a_signature_is_an_error(raw: bytes) -> None:
    with pytest.raises(TranslationError):
        ecdsa_der(raw)


@given(st.binary(max_size=600), st.sampled_from(Scheme), st.sampled_from([64, 96, 132, 256, 384, 512]))
def test_a_signature_of_another_length_is_never_used(raw: bytes, scheme: Scheme, expected: int) -> None:
    if len(raw) == expected:
        return
    with pytest.raises(TranslationError, match=f"of {len(raw)} bytes, and {expected} were due"):
        signature_of(scheme, raw, expected)


@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme.family is KeyFamily.RSA])
def test_what_rsa_mechanisms_are_given(scheme: Scheme) -> None:
    digest = scheme.payload_of(b"message")
    hash_ = {"sha256": SHA256(), "sha384": SHA384(), "sha512": SHA512()}[str(scheme.digest)]
    mechanism, parameter = mechanism_of(scheme)
    if scheme.is_pss:
        assert mechanism == c.CKM_RSA_PKCS_PSS
        numbers = {"sha256": (0x250, 2, 32), "sha384": (0x260, 3, 48), "sha512": (0x270, 4, 64)}[str(scheme.digest)]
        assert parameter == struct.pack("@LLL", *numbers)
        assert prefix_of(scheme) == b""
    else:
        assert (mechanism, parameter) == (c.CKM_RSA_PKCS, b"")
        # CKM_RSA_PKCS pads what it is given: with the prefix, that is what a signature of the digest holds.
        made = RSA.sign(prefix_of(scheme) + digest, padding.PKCS1v15(), NoDigestInfo())
        RSA.public_key().verify(made, b"message", padding.PKCS1v15(), hash_)


def test_what_other_mechanisms_are_given() -> None:
    for scheme in (Scheme.ECDSA_SHA256, Scheme.ECDSA_SHA384, Scheme.ECDSA_SHA512):
        assert mechanism_of(scheme) == (c.CKM_ECDSA, b"")
        assert prefix_of(scheme) == b""
    assert mechanism_of(Scheme.ED25519) == (c.CKM_EDDSA, b"")
    assert prefix_of(Scheme.ED25519) == b""


@pytest.mark.parametrize("type_", CURVES)
@pytest.mark.parametrize("is_wrapped", [True, False])
def test_ec_public_keys(type_: KeyType, is_wrapped: bool) -> None:
    key = ec.generate_private_key(CURVES[type_]).public_key()
    point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    (parameters,) = curve_parameters(type_)
    public = ec_public_key(parameters, der.wrap(der.OCTET_STRING, point) if is_wrapped else point)
    assert public.spki == spki(key)
    assert public.ski == SubjectKeyIdentifier.from_public_key(key).digest
    assert (public.type, public.signature_bytes) == (type_, 2 * ((key.curve.key_size + 7) // 8))
    assert public_key_of_spki(spki(key)) == public


@pytest.mark.parametrize("is_wrapped", [True, False])
@pytest.mark.parametrize("parameters", curve_parameters(KeyType.ED25519))
def test_ed25519_public_keys(parameters: bytes, is_wrapped: bool) -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    raw = key.public_bytes_raw()
    public = ec_public_key(parameters, der.wrap(der.OCTET_STRING, raw) if is_wrapped else raw)
    assert public.spki == spki(key)
    assert public.ski == SubjectKeyIdentifier.from_public_key(key).digest
    assert (public.type, public.signature_bytes) == (KeyType.ED25519, 64)
    assert public_key_of_spki(spki(key)) == public


@pytest.mark.parametrize("bits", [2048, 3072, 2056, 4096])
def test_rsa_public_keys(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits).public_key() if bits < 4096 else None
    if key is None:
        key = rsa.RSAPublicNumbers(65537, 2**4095 + 1).public_key()
    numbers = key.public_numbers()
    public = rsa_public_key(b"\0" + big(numbers.n), big(numbers.e))
    assert public.spki == spki(key)
    assert public.ski == SubjectKeyIdentifier.from_public_key(key).digest
    known = {2048: KeyType.RSA_2048, 3072: KeyType.RSA_3072, 4096: KeyType.RSA_4096}
    assert (public.type, public.signature_bytes) == (known.get(bits, KeyType.RSA_OTHER), (bits + 7) // 8)
    assert public_key_of_spki(spki(key)) == public


@pytest.mark.parametrize(
    ("modulus", "exponent", "says"),
    [
        (big(2**1023 + 1), b"\1\0\1", "1024 bits"),
        (big(2**8192 + 1), b"\1\0\1", "8193 bits"),
        (big(2**2047 + 1), b"\1", "no RSA public key"),
        (big(2**2047 + 1), b"\4", "no RSA public key"),
        (big(2**2047), b"\1\0\1", "no RSA public key"),
        (big(2**2047 + 1), big(2**2047 + 1), "no RSA public key"),
        (b"", b"", "0 bits"),
    ],
)
def test_rsa_keys_that_are_none(modulus: bytes, exponent: bytes, says: str) -> None:
    with pytest.raises(TranslationError, match=says):
        rsa_public_key(modulus, exponent)


P256_OID = curve_parameters(KeyType.P256)[0]


@pytest.mark.parametrize(
    ("parameters", "point", "says"),
    [
        (bytes.fromhex("06052b8104000a"), b"\4" + bytes(64), "its curve is not"),
        (b"", b"\4" + bytes(64), "its curve is not"),
        (der.wrap(der.PRINTABLE, b"edwards448"), bytes(57), "its curve is not"),
        (P256_OID, b"\4" + bytes(63), "64 bytes of an unknown form"),
        (P256_OID, b"\2" + bytes(32), "33 bytes"),
        (P256_OID, b"\2" + bytes(64), "65 bytes"),
        (P256_OID, der.wrap(der.BIT_STRING, b"\4" + bytes(64)), "67 bytes"),
        (P256_OID, der.wrap(der.OCTET_STRING, b"\4" + bytes(64)) + b"x", "68 bytes"),
        (P256_OID, b"", "0 bytes"),
    ],
)
def test_ec_keys_that_are_none(parameters: bytes, point: bytes, says: str) -> None:
    with pytest.raises(TranslationError, match=says):
        ec_public_key(parameters, point)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_public_key_or_an_error(data: bytes) -> None:
    with pytest.raises(TranslationError):
        public_key_of_spki(data)


@given(st.integers(0, 90), st.integers(0, 255))
def test_a_damaged_public_key_is_an_error_or_an_honest_one(at: int, value: int) -> None:
    key = bytearray(spki(ec.derive_private_key(7, ec.SECP256R1()).public_key()))
    key[at] = value
    try:
        public = public_key_of_spki(bytes(key))
    except TranslationError:
        return
    assert public.spki == bytes(key)
    assert public.ski == hashlib.sha1(public.spki[-65:], usedforsecurity=False).digest()


def test_public_keys_of_other_kinds_are_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP256K1()), ec.generate_private_key(ec.SECP224R1())):
        with pytest.raises(TranslationError, match="its curve is not"):
            public_key_of_spki(spki(key.public_key()))


def test_types_that_can_be_made() -> None:
    assert [rsa_bits(t) for t in (KeyType.RSA_2048, KeyType.RSA_3072, KeyType.RSA_4096)] == [2048, 3072, 4096]
    with pytest.raises(TranslationError, match=r"rsa-other can't be generated; choose one of rsa-2048, .*ed25519"):
        rsa_bits(KeyType.RSA_OTHER)
    for type_ in (*CURVES, KeyType.ED25519):
        assert all(curve_of(form) is type_ for form in curve_parameters(type_))


def test_what_is_made_can_be_loaded() -> None:
    numbers = RSA.public_key().public_numbers()
    loaded = load_der_public_key(rsa_public_key(big(numbers.n), big(numbers.e)).spki)
    assert loaded == RSA.public_key()
