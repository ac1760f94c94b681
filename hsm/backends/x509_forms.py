"""The X.509 forms that certificates and requests are made of: subjects, names, and what a purpose's extensions are.

Builds; does not sign and reads no files. What it makes satisfies strict verifiers: names in the subject alternative
name, key usage and extended key usage set, both key identifiers, random serial numbers of 159 bits.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsm.backends.attributes import Purpose

MAX_DAYS = {Purpose.TLS_SERVER: 397, Purpose.CA: 7305, Purpose.CODE_SIGNING: 1187, Purpose.GENERAL: 7305}
"""How long a key may certify itself: browsers refuse longer for servers; 39 months for programs; else 20 years."""
MAX_NAMES = 100
CLOCK_SKEW = timedelta(hours=1)
"""Certificates begin to be valid this long ago, for verifiers whose clock is behind."""


class FormProblem(Exception):
    """A subject, name or number can't be certified; `str()` is a sentence for the user."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


_DNS_NAME = re.compile(
    r"^(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z"
)


_PRINTABLE = (
    *(NameOID.COUNTRY_NAME, NameOID.JURISDICTION_COUNTRY_NAME),
    *(NameOID.SERIAL_NUMBER, NameOID.DN_QUALIFIER),
)
"""Attributes that are PrintableStrings (RFC 5280 A.1)."""
_PRINTABLE_STRING = re.compile(r"^[A-Za-z0-9 '()+,./:=?-]*\Z")


def parse_subject(text: str) -> x509.Name:
    """A subject: "CN=example.com,O=Example" (RFC 4514), or a bare common name. Raises FormProblem."""
    try:
        if not text.strip() or not text.isprintable():
            raise ValueError("it is empty or has control characters")
        if "=" in text:
            name = x509.Name.from_rfc4514_string(text)
            _check_printable(name)
            return name
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError as error:
        sentence = f"{text!r} is not a subject ({error}); write, for example, CN=example.com,O=Example"
        raise FormProblem(sentence) from None


def _check_printable(name: x509.Name) -> None:
    """Raise ValueError for characters that would be found only when the certificate is made."""
    for attribute in name:
        if attribute.oid in _PRINTABLE and not _PRINTABLE_STRING.match(str(attribute.value)):
            raise ValueError(f"{attribute.rfc4514_attribute_name} takes plain letters and digits only")


def parse_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Subject alternative names: DNS names, with one leading "*." at most, and IP addresses. Raises FormProblem."""
    if not names:
        raise FormProblem("at least one name is needed: clients ignore the common name")
    if len(names) > MAX_NAMES:
        raise FormProblem(f"a certificate may have at most {MAX_NAMES} names")
    return [_parse_name(name) for name in dict.fromkeys(names)]


def _parse_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if len(name) > 253 or not _DNS_NAME.match(name):
        sentence = f"{name!r} is not a DNS name or IP address; write international names in their xn-- form"
        raise FormProblem(sentence)
    return x509.DNSName(name.lower())


def signature_hash(key: object) -> SHA256 | SHA384 | SHA512 | None:
    """The digest with which a key, private or public, signs certificates and requests; None for Ed25519."""
    if isinstance(key, Ed25519PrivateKey | Ed25519PublicKey):
        return None
    if isinstance(key, EllipticCurvePrivateKey | EllipticCurvePublicKey) and key.curve.key_size > 256:
        return SHA384() if key.curve.key_size == 384 else SHA512()
    return SHA256()


def request_builder(
    subject: str, names: Sequence[str], purpose: Purpose = Purpose.TLS_SERVER
) -> x509.CertificateSigningRequestBuilder:
    """A request for a certificate, to be signed by its key. Only a TLS server needs names. Raises FormProblem.

    A server's request leaves its usages to the CA, as is usual; a CA's and a program signer's say them.
    """
    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_subject(subject))
    for extension, is_critical in _request_extensions(names, purpose):
        builder = builder.add_extension(extension, critical=is_critical)
    return builder


def _request_extensions(names: Sequence[str], purpose: Purpose) -> list[tuple[x509.ExtensionType, bool]]:
    alternative = _alternative(names, purpose)
    return [*([] if purpose is Purpose.TLS_SERVER else _usages(purpose)), *alternative]


def _alternative(names: Sequence[str], purpose: Purpose) -> list[tuple[x509.ExtensionType, bool]]:
    if not names and purpose is not Purpose.TLS_SERVER:
        return []
    return [(x509.SubjectAlternativeName(parse_names(names)), False)]


def _usages(purpose: Purpose) -> list[tuple[x509.ExtensionType, bool]]:
    """What certificates of a purpose say that their key may do (RFC 5280 4.2.1.3, 4.2.1.9, 4.2.1.12)."""
    match purpose:
        case Purpose.CA:
            return [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (key_usage(certificate_authority=True), True),
            ]
        case Purpose.CODE_SIGNING:
            return [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (key_usage(digital_signature=True), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
            ]
        case Purpose.TLS_SERVER:
            return [
                (x509.BasicConstraints(ca=False, path_length=None), True),
                (key_usage(digital_signature=True), True),
                (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            ]
        case Purpose.GENERAL:
            return [(x509.BasicConstraints(ca=False, path_length=None), True)]


def self_signed_builder(
    subject: str,
    names: Sequence[str],
    public_key: CertificatePublicKeyTypes,
    *,
    purpose: Purpose,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    """A certificate to be signed by its own key, valid for `days` (1 to MAX_DAYS of the purpose).

    Raises FormProblem.
    """
    if not 1 <= days <= MAX_DAYS[purpose]:
        raise FormProblem(f"days must be 1 to {MAX_DAYS[purpose]} for a {purpose.value} key, not {days}")
    name = parse_subject(subject)
    own_ski = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = _dated(public_key, subject=name, issuer=name, now=now, days=days)
    for extension, is_critical in (*_usages(purpose), *_alternative(names, purpose)):
        builder = builder.add_extension(extension, critical=is_critical)
    return builder.add_extension(own_ski, critical=False).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_ski), critical=False
    )


def _dated(
    public_key: CertificatePublicKeyTypes, *, subject: x509.Name, issuer: x509.Name, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now - CLOCK_SKEW + timedelta(days=days) - timedelta(seconds=1))
    )


def leaf_builder(
    subject: x509.Name,
    names: Iterable[x509.GeneralName],
    public_key: CertificatePublicKeyTypes,
    *,
    issuer: x509.Name,
    issuer_ski: x509.SubjectKeyIdentifier,
    now: datetime,
    days: int,
    is_client: bool = False,
) -> x509.CertificateBuilder:
    """An end-entity certificate for a TLS server (and client, where `is_client`), to be signed by its issuer."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if is_client else [])]
    builder = _dated(public_key, subject=subject, issuer=issuer, now=now, days=days)
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_ski), critical=False)
    )


def key_usage(*, digital_signature: bool = False, certificate_authority: bool = False) -> x509.KeyUsage:
    """Key usage of a leaf (it signs handshakes, nothing is encrypted to it) or of a CA."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificate_authority,
        crl_sign=certificate_authority,
        encipher_only=False,
        decipher_only=False,
    )
