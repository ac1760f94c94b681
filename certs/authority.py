"""A development certificate authority: issues certificates from requests and identities for links.

For development and tests. Its keys lie in files beside it, so it must not certify anything that matters. Site keys
never come here: a site's certificate is issued from a request that its key signed inside the vault.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from hsm.backends.x509_forms import CLOCK_SKEW, key_usage, leaf_builder, signature_hash
from hsm.shared.logs import Secret

LEAF_DAYS = 397
"""The longest validity that browsers accept."""
ROOT_DAYS, INTERMEDIATE_DAYS = 3650, 1825


class PkiError(Exception):
    """The development PKI can't do it; `str()` is a sentence for the user."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can issue. `chain` holds the certificates between its leaves and the root, its own first."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def certificate_pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> Secret[bytes]:
        """Its private key, for a file of mode 0600."""
        return private_pem(self.key)

    @property
    def ski(self) -> x509.SubjectKeyIdentifier:
        """What its leaves name as their authority."""
        return self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def create_root(name: str) -> Authority:
    """A new self-signed root, valid for ten years. It certifies authorities only."""
    key = generate_private_key(SECP256R1())
    return Authority(_ca_certificate(name, key, None, ROOT_DAYS, path_length=1), key)


def create_intermediate(name: str, root: Authority) -> Authority:
    """A new authority under a root, valid for five years. It certifies leaves only."""
    key = generate_private_key(SECP256R1())
    certificate = _ca_certificate(name, key, root, INTERMEDIATE_DAYS, path_length=0)
    return Authority(certificate, key, (certificate,))


def load_authority(certificate: Path, private_key: Path, *, is_root: bool) -> Authority:
    """Read an authority from its PEM files. Raises PkiError."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = load_pem_private_key(private_key.read_bytes(), None)
    except OSError as error:
        raise PkiError(f"{error.filename} can't be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise PkiError(f"{certificate} and {private_key} are not the PEM files of a development CA") from None
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != loaded.public_key():
        raise PkiError(f"{private_key} is not the key of {certificate}")
    return Authority(loaded, key, () if is_root else (loaded,))


def issue_from_csr(authority: Authority, csr_pem: bytes, *, days: int = LEAF_DAYS) -> bytes:
    """Certify what a request asks for as a TLS server: its subject, names and key. PEM: the leaf, then the chain.

    Raises PkiError for a request that is broken, not signed by its own key, names nothing, or names what is no site.
    """
    _check_days(days)
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        is_own = request.is_signature_valid
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, InvalidSignature, UnsupportedAlgorithm):
        raise PkiError("this is not a PEM certificate request") from None
    except x509.ExtensionNotFound:
        raise PkiError("the request has no subject alternative name; clients need one") from None
    if not is_own:
        raise PkiError("the request is not signed by its own key")
    if not len(names):
        raise PkiError("the request has no subject alternative name; clients need one")
    if not all(isinstance(name, x509.DNSName | x509.IPAddress) for name in names):
        # A URI says who a program is on links, and the nodes' access lists believe it.
        raise PkiError("the request asks for more than DNS names and IP addresses; a site needs nothing else")
    builder = leaf_builder(
        request.subject,
        names,
        request.public_key(),
        issuer=authority.certificate.subject,
        issuer_ski=authority.ski,
        now=datetime.now(UTC),
        days=days,
    )
    return _chain_pem(authority, builder.sign(authority.key, signature_hash(authority.key)))


def issue_identity(
    authority: Authority,
    name: str,
    uri: str,
    *,
    dns_names: Sequence[str] = (),
    addresses: Sequence[str] = (),
    days: int = LEAF_DAYS,
) -> tuple[bytes, Secret[bytes]]:
    """A new key and a certificate by which a program is known on links, as server and as client.

    `uri` is what access lists name. Returns the PEM chain and the PEM key.
    """
    _check_days(days)
    key = generate_private_key(SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(dns) for dns in dns_names]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    builder = leaf_builder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        [*names, x509.UniformResourceIdentifier(uri)],
        key.public_key(),
        issuer=authority.certificate.subject,
        issuer_ski=authority.ski,
        now=datetime.now(UTC),
        days=days,
        is_client=True,
    )
    return _chain_pem(authority, builder.sign(authority.key, signature_hash(authority.key))), private_pem(key)


def private_pem(key: EllipticCurvePrivateKey) -> Secret[bytes]:
    """PKCS#8 without a password."""
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def is_issued_by(certificate: x509.Certificate, authority: Authority) -> bool:
    """Whether the authority's key signed the certificate."""
    try:
        certificate.verify_directly_issued_by(authority.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _check_days(days: int) -> None:
    if not 1 <= days <= LEAF_DAYS:
        raise PkiError(f"days must be 1 to {LEAF_DAYS}, not {days}")


def _chain_pem(authority: Authority, leaf: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in (leaf, *authority.chain))


def _ca_certificate(
    name: str, key: EllipticCurvePrivateKey, parent: Authority | None, days: int, *, path_length: int
) -> x509.Certificate:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Sealgate development"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    own_ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    authority_ski = parent.ski if parent else own_ski
    begin = datetime.now(UTC) - CLOCK_SKEW
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(key_usage(certificate_authority=True), critical=True)
        .add_extension(own_ski, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_ski), critical=False)
    )
    signer = parent.key if parent else key
    return builder.sign(signer, signature_hash(signer))
