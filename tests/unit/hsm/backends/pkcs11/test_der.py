from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11 import der
from hsm.backends.pkcs11.der import DerError


@given(st.binary(max_size=70_000) | st.integers(0, 300).map(bytes))
def test_what_is_wrapped_is_read(body: bytes) -> None:
    assert der.only(der.wrap(der.OCTET_STRING, body), der.OCTET_STRING) == body
    assert der.elements(der.wrap(der.OCTET_STRING, body) + der.wrap(der.NULL)) == [
        (der.OCTET_STRING, body, der.wrap(der.OCTET_STRING, body)),
        (der.NULL, b"", b"\x05\x00"),
    ]


@given(st.integers(0, 2**300))
def test_integers_are_not_negative_and_shortest(value: int) -> None:
    body = der.only(der.integer(value), der.INTEGER)
    assert int.from_bytes(body, "big", signed=True) == value
    assert len(body) == 1 or body[0] or body[1] & 0x80


@given(st.binary(max_size=40))
def test_any_bytes_are_der_or_an_error(data: bytes) -> None:
    for parse in (der.elements, der.public_key_of_certificate, lambda data: der.only(data, der.SEQUENCE)):
        with contextlib.suppress(DerError):
            parse(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04",
        b"\x04\x01",
        b"\x04\x80",
        b"\x04\x81\x05hello",
        b"\x04\x82\x00\x81" + bytes(0x81),
        b"\x04\x85\0\0\0\0\1x",
        b"\x04\x82\1",
        b"\x1f\x81\x01\0",
        b"\x04\x01ab",
        b"\x30\x01a",
    ],
)
def test_what_is_not_one_octet_string(data: bytes) -> None:
    with pytest.raises(DerError):
        der.only(data, der.OCTET_STRING)


def test_the_public_key_of_a_certificate() -> None:
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.com")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, SHA256()).public_bytes(Encoding.DER)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert der.public_key_of_certificate(certificate) == spki
    for cut in range(0, len(certificate), 7):
        with pytest.raises(DerError):
            der.public_key_of_certificate(certificate[:cut])
