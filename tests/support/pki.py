"""Certificates for tests: a CA, intermediates and leaves made on the spot, with keys that live in the test."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import NameOID

from hsm.wire.schemes import Scheme

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_HASHES = {"sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512}
_CURVES = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, its key, and the intermediates between it and the root (nearest first)."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = ()
    is_root: bool = False

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a server shows: the certificate and the intermediates, without the root."""
        return (self.certificate, *self.intermediates)

    @property
    def key_pem(self) -> bytes:
        """The key, unencrypted PKCS#8."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_key(kind: str = "p256") -> PrivateKey:
    """A fresh key: "p256", "p384", "p521", "ed25519", or "rsa-<bits>"."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


@cache
def shared_key(kind: str = "p256", number: int = 0) -> PrivateKey:
    """The same key each time it is asked for in a test process: RSA keys are slow to make."""
    return new_key(kind)


def make_ca(name: str = "Test CA", *, key: PrivateKey | None = None, days: float = 3650) -> Issued:
    """A self-signed root."""
    key = key or new_key()
    certificate = _build(name, (), key, name, key, days=days, is_ca=True, authority=None)
    return Issued(certificate, key, is_root=True)


def issue(
    ca: Issued,
    names: str | Sequence[str],
    key: PrivateKey | None = None,
    *,
    days: float = 90,
    is_ca: bool = False,
    starts_in_days: float = -1,
    uris: Sequence[str] = (),
) -> Issued:
    """A certificate by `ca` for `names` (DNS names or IP addresses; for a CA its common name)."""
    names = (names,) if isinstance(names, str) else tuple(names)
    key = key or new_key()
    certificate = _build(
        names[0] if names else "nameless",
        () if is_ca else names,
        key,
        _common_name(ca.certificate),
        ca.key,
        days=days,
        is_ca=is_ca,
        authority=ca.certificate,
        starts_in_days=starts_in_days,
        uris=uris,
    )
    return Issued(certificate, key, () if ca.is_root else ca.chain)


def write_chain(path: Path, certs: Issued | Iterable[x509.Certificate]) -> Path:
    """Write certificates as PEM, in the order given; an `Issued` with its intermediates."""
    chain = certs.chain if isinstance(certs, Issued) else certs
    path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain))
    return path


def write_key(path: Path, issued: Issued) -> Path:
    """Write the private key as PEM, readable by the owner only."""
    path.touch(mode=0o600)
    path.write_bytes(issued.key_pem)
    return path


def sign(key: PrivateKey, scheme: Scheme, message: bytes) -> bytes:
    """Sign as a node would."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    assert scheme.digest is not None
    digest = _HASHES[scheme.digest]()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(digest))
    if scheme.is_pss:
        return key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return key.sign(message, padding.PKCS1v15(), digest)


def _common_name(certificate: x509.Certificate) -> str:
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _build(
    subject: str,
    names: Sequence[str],
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    *,
    days: float,
    is_ca: bool,
    authority: x509.Certificate | None,
    starts_in_days: float = -1,
    uris: Sequence[str] = (),
) -> x509.Certificate:
    now = datetime.now(UTC).replace(microsecond=0)
    start = min(now + timedelta(days=starts_in_days), now + timedelta(days=days - 1))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject[:64])]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer[:64])]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    alternatives = [_general_name(name) for name in names] + [x509.UniformResourceIdentifier(uri) for uri in uris]
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if is_ca:
        builder = builder.add_extension(_ca_usage(), critical=True)
    if authority is not None:
        builder = builder.add_extension(_authority_key(authority), critical=False)
    algorithm = None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(issuer_key, algorithm)


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
