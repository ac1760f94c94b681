"""Keys of a token as `cryptography` wants them. A key in memory stands for the token."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsm.backends.pkcs11.messages import FoundKey
from hsm.backends.pkcs11.private_keys import private_key_of
from hsm.backends.x509_forms import signature_hash
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import HASHES

REAL: dict[KeyType, Any] = {
    KeyType.RSA_2048: rsa.generate_private_key(65537, 2048),
    KeyType.P256: ec.generate_private_key(ec.SECP256R1()),
    KeyType.P384: ec.generate_private_key(ec.SECP384R1()),
    KeyType.P521: ec.generate_private_key(ec.SECP521R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate(),
}


def in_token(type_: KeyType) -> Any:
    real = REAL[type_]

    def sign(scheme: Scheme, payload: bytes) -> bytes:
        if scheme is Scheme.ED25519:
            return bytes(real.sign(payload))
        digest = HASHES[scheme.digest or ""]
        if type_ is KeyType.RSA_2048:
            pad = padding.PSS(padding.MGF1(digest), digest.digest_size) if scheme.is_pss else padding.PKCS1v15()
            return bytes(real.sign(payload, pad, Prehashed(digest)))
        return bytes(real.sign(payload, ec.ECDSA(Prehashed(digest))))

    public = real.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return private_key_of(FoundKey(b"s" * 20, type_, "www", b"", public, True, False), sign)


@pytest.mark.parametrize("type_", REAL)
def test_builders_sign_with_it(type_: KeyType) -> None:
    key = in_token(type_)
    name = x509.Name.from_rfc4514_string("CN=example.com")
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, signature_hash(key))
    assert request.is_signature_valid
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, signature_hash(key))
    )
    certificate.verify_directly_issued_by(certificate)
    assert certificate.public_key() == REAL[type_].public_key()


def test_pss_certificates_can_be_signed() -> None:
    key = in_token(KeyType.RSA_2048)
    pss = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
    key.public_key().verify(key.sign(b"message", pss, SHA384()), b"message", pss, SHA384())


@pytest.mark.parametrize("type_", REAL)
def test_there_are_no_private_bytes_to_be_had(type_: KeyType) -> None:
    key = in_token(type_)
    with pytest.raises(TypeError, match="stays in its token"):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, arguments in (
        ("private_numbers", ()),
        ("private_bytes_raw", ()),
        ("decrypt", (b"", padding.PKCS1v15())),
        ("exchange", (ec.ECDH(), None)),
    ):
        if hasattr(key, name):
            with pytest.raises(TypeError, match="stays in its token"):
                getattr(key, name)(*arguments)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_digests_that_no_scheme_has_are_refused() -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        in_token(KeyType.P256).sign(b"message", ec.ECDSA(SHA1()))
    with pytest.raises(ValueError, match="SHA-256"):
        in_token(KeyType.RSA_2048).sign(b"message", padding.PKCS1v15(), SHA1())
    with pytest.raises(ValueError, match="PSS"):
        in_token(KeyType.RSA_2048).sign(b"message", padding.OAEP(padding.MGF1(SHA256()), SHA256(), None), SHA256())


def test_sizes_and_curves_are_those_of_the_public_key() -> None:
    assert in_token(KeyType.RSA_2048).key_size == 2048
    assert in_token(KeyType.P384).key_size == 384
    assert in_token(KeyType.P384).curve.name == "secp384r1"
