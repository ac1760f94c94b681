"""What is taken for the signed part of a certificate, and what is not."""

from __future__ import annotations

import datetime
import random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from hsm.node.asn1_look import is_signed_structure
from tests.support.tls_messages import element, forged_attributes, forged_certificate, key_exchange

KEY = ec.generate_private_key(ec.SECP256R1())
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
EMPTY = x509.Name([])


def certificate(name: x509.Name) -> x509.Certificate:
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), 1, NOW, NOW + datetime.timedelta(days=1))
    return builder.sign(KEY, hashes.SHA256())


def revocations() -> bytes:
    builder = x509.CertificateRevocationListBuilder(EMPTY, NOW, NOW + datetime.timedelta(days=1))
    return builder.sign(KEY, hashes.SHA256()).tbs_certlist_bytes


def status() -> bytes:
    leaf = certificate(NAME)
    builder = ocsp.OCSPResponseBuilder().responder_id(ocsp.OCSPResponderEncoding.HASH, leaf)
    good = ocsp.OCSPCertStatus.GOOD
    builder = builder.add_response(leaf, leaf, hashes.SHA256(), good, NOW, None, None, None)
    return builder.sign(KEY, hashes.SHA256()).tbs_response_bytes


@pytest.mark.parametrize(
    "signed",
    [
        certificate(NAME).tbs_certificate_bytes,
        certificate(EMPTY).tbs_certificate_bytes,
        x509.CertificateSigningRequestBuilder(NAME).sign(KEY, hashes.SHA256()).tbs_certrequest_bytes,
        revocations(),
        status(),
        forged_certificate(),
        forged_attributes(),
    ],
)
def test_what_is_signed_of_certificates_and_their_kin_is_known(signed: bytes) -> None:
    assert is_signed_structure(signed)
    assert not is_signed_structure(signed[:-1])
    assert not is_signed_structure(signed + b"\0")


def test_lenient_lengths_hide_nothing() -> None:
    """BER, X.690 8.1.3: longer than needed, or not said; some verifiers take both."""
    content = forged_certificate()[2:]
    assert is_signed_structure(b"\x30\x81" + bytes((len(content),)) + content)
    assert is_signed_structure(b"\x30\x84\0\0\0" + bytes((len(content),)) + content)
    assert is_signed_structure(b"\x30\x80" + content + b"\0\0")
    part = element(0x30, b"\x05\x00")
    unsaid = b"\x30\x80\x30\x80\x05\x00\0\0\0\0"
    assert is_signed_structure(element(0x30, unsaid, part, element(0x9F, b"")[:1] + b"\x81\x01\x00"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x00",
        b"\x31\x00",
        b"\x30\x80",
        b"\x30\x80\0\0",
        b"\x30\x84",
        b"\x31\x02\x30\x80",
        b"\x30\x03\x1f\xff\xff",
        element(0x30, b"\x02\x01\x01", element(0x30), element(0x04)),
        element(0x30, element(0x30), element(0x30)),
        element(0x31, element(0x30), b"\x02\x01\x01"),
        b"\x30\x7e" + b"\x30\x80" * 63,
        key_exchange(),
    ],
)
def test_other_bytes_are_none(data: bytes) -> None:
    assert not is_signed_structure(data)


@given(st.binary(max_size=200), st.sampled_from((b"\x30", b"\x31", b"\x30\x80", b"\x30\x82\x00")))
def test_it_never_raises(rest: bytes, head: bytes) -> None:
    assert isinstance(is_signed_structure(head + rest), bool)


def test_chance_makes_hardly_any() -> None:
    """One in 32,768 random messages of 100 bytes begins like these; fewer than one in 1,000 of them go on so."""
    source = random.Random(1)
    assert sum(is_signed_structure(b"\x30\x62" + source.randbytes(98)) for _ in range(20_000)) < 20
