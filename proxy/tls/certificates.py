"""The certificates of the sites: read and checked before anything uses them.

Every certificate of every site is looked at and every problem is reported at once, with file and reason. Files hold the
site's certificate and then its intermediates, in PEM. They never hold a private key: keys are on the HSM nodes, and a
certificate's public key says which one is meant (its SKI).

What is not checked: whether clients trust the root, and revocation; both are the clients' view, not ours.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsm.wire.schemes import KeyFamily, KeyType
from proxy.config.schema import SiteConfig
from proxy.tls import provider
from proxy.tls.problems import CertificateProblem, CertificateProblems
from proxy.tls.sites import is_covered, normalise_name

MAX_FILE_BYTES = 1 << 20
WARN_BEFORE = timedelta(days=14)
"""A certificate that expires within this time is a warning."""

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----")
_RSA_TYPES = {2048: KeyType.RSA_2048, 3072: KeyType.RSA_3072, 4096: KeyType.RSA_4096}
_CURVE_TYPES = {"secp256r1": KeyType.P256, "secp384r1": KeyType.P384, "secp521r1": KeyType.P521}
_MIN_RSA_BITS = 2048

T = TypeVar("T", bound=x509.ExtensionType)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class SiteCertificate:
    """A checked certificate with its intermediates, and the key it belongs to."""

    site: str
    file: str
    chain: tuple[x509.Certificate, ...] = field(repr=False)
    public_key: PublicKey = field(repr=False)
    key_type: KeyType
    ski: bytes

    @property
    def chain_pem(self) -> bytes:
        """The certificate and its intermediates, as they are shown to clients."""
        return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in self.chain)


@dataclass(frozen=True, slots=True)
class LoadedCertificates:
    """What `load_certificates` found good."""

    by_site: dict[str, tuple[SiteCertificate, ...]]
    warnings: tuple[CertificateProblem, ...]


def load_certificates(sites: Iterable[SiteConfig], base_dir: Path, *, now: datetime) -> LoadedCertificates:
    """Read and check the certificates of all sites; relative file names are relative to `base_dir`.

    `now` is an aware time. Raises CertificateProblems with every problem of every file.
    """
    problems: list[CertificateProblem] = []
    warnings: list[CertificateProblem] = []
    by_site: dict[str, tuple[SiteCertificate, ...]] = {}
    for site in sites:
        checks = [_FileCheck(base_dir / name, site, now) for name in site.certificates]
        good = [certificate for check in checks if (certificate := check.run()) is not None]
        for check in checks:
            problems.extend(check.problems)
            warnings.extend(check.warnings)
        problems.extend(_repeated_families(good))
        by_site[site.name] = tuple(good)
    if problems:
        raise CertificateProblems(problems)
    return LoadedCertificates(by_site, tuple(warnings))


def _repeated_families(certificates: Sequence[SiteCertificate]) -> list[CertificateProblem]:
    """OpenSSL keeps one certificate per family; a second one would silently take the first one's place."""
    first: dict[KeyFamily, SiteCertificate] = {}
    problems = []
    for one in certificates:
        other = first.setdefault(one.key_type.family, one)
        if other is not one:
            reason = f"is a second certificate with an {one.key_type.family.value} key, beside {other.file}; keep one"
            problems.append(CertificateProblem(one.file, one.site, reason))
    return problems


class _FileCheck:
    """Checks one file of one site; collects problems rather than stop at the first."""

    def __init__(self, path: Path, site: SiteConfig, now: datetime) -> None:
        self._path = path
        self._site = site
        self._now = now
        self.problems: list[CertificateProblem] = []
        self.warnings: list[CertificateProblem] = []

    def run(self) -> SiteCertificate | None:
        """The certificate, or None with at least one problem noted."""
        chain = self._read()
        if not chain:
            return None
        leaf = chain[0]
        key = self._supported_key(leaf)
        self._check_dates(chain)
        self._check_order(chain)
        self._check_issuers(chain)
        self._check_leaf(leaf)
        if self.problems or key is None:
            return None
        public_key, key_type = key
        ski = provider.ski_of(public_key)
        return SiteCertificate(self._site.name, str(self._path), tuple(chain), public_key, key_type, ski)

    def _problem(self, reason: str) -> None:
        self.problems.append(CertificateProblem(str(self._path), self._site.name, reason))

    def _read(self) -> list[x509.Certificate]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            self._problem(f"cannot be read: {error.strerror or error}")
            return []
        if _PRIVATE_KEY.search(data):
            self._problem("must not contain a private key: site keys live on the HSM nodes only; take it out")
            return []
        if len(data) > MAX_FILE_BYTES:
            self._problem(f"is longer than {MAX_FILE_BYTES} bytes: that is no certificate file")
            return []
        if b"-----BEGIN CERTIFICATE-----" not in data:
            self._problem("contains no PEM certificate (-----BEGIN CERTIFICATE-----)")
            return []
        return self._parse(data)

    def _parse(self, data: bytes) -> list[x509.Certificate]:
        try:
            chain = x509.load_pem_x509_certificates(data)
            for certificate in chain:
                _ = certificate.extensions, certificate.public_key()
        except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
            self._problem(f"contains a certificate that cannot be parsed: {error}")
            return []
        except Exception as error:
            # An unknown curve or key type is an UnsupportedAlgorithm; whatever else a hostile file does is no crash.
            self._problem(f"contains a certificate that is not supported: {error}")
            return []
        return chain

    def _supported_key(self, leaf: x509.Certificate) -> tuple[PublicKey, KeyType] | None:
        key = leaf.public_key()
        match key:
            case rsa.RSAPublicKey() if key.key_size >= _MIN_RSA_BITS:
                return key, _RSA_TYPES.get(key.key_size, KeyType.RSA_OTHER)
            case rsa.RSAPublicKey():
                self._problem(f"has an RSA key of {key.key_size} bits; at least {_MIN_RSA_BITS} are needed")
            case ec.EllipticCurvePublicKey() if key.curve.name in _CURVE_TYPES:
                return key, _CURVE_TYPES[key.curve.name]
            case ec.EllipticCurvePublicKey():
                self._problem(f"has a key on the curve {key.curve.name}; use P-256, P-384 or P-521")
            case ed25519.Ed25519PublicKey():
                return key, KeyType.ED25519
            case _:
                self._problem("has a key that is neither RSA, ECDSA nor Ed25519")
        return None

    def _check_dates(self, chain: Sequence[x509.Certificate]) -> None:
        for position, certificate in enumerate(chain):
            which = "the certificate" if position == 0 else f"intermediate {position} ({_subject(certificate)})"
            ends = certificate.not_valid_after_utc
            if self._now > ends:
                self._problem(f"{which} expired on {ends:%Y-%m-%d %H:%M} UTC; renew it")
            elif self._now < certificate.not_valid_before_utc:
                self._problem(f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
            elif ends - self._now < WARN_BEFORE:
                reason = f"{which} expires on {ends:%Y-%m-%d %H:%M} UTC; renew it soon"
                self.warnings.append(CertificateProblem(str(self._path), self._site.name, reason))

    def _check_order(self, chain: Sequence[x509.Certificate]) -> None:
        if len(chain) > 1 and _is_ca(chain[0]) and not all(_is_ca(one) for one in chain):
            self._problem("the first certificate is a CA's; the site's own must come first, then its intermediates")

    def _check_issuers(self, chain: Sequence[x509.Certificate]) -> None:
        for position, (certificate, issuer) in enumerate(itertools.pairwise(chain), start=1):
            if not _is_issued_by(certificate, issuer):
                self._problem(
                    f"certificate {position + 1} ({_subject(issuer)}) did not issue certificate {position} "
                    f"({_subject(certificate)}); each must be signed by the next"
                )
            if not _is_ca(issuer):
                self._problem(f"certificate {position + 1} ({_subject(issuer)}) is not a CA's, it may not issue others")

    def _check_leaf(self, leaf: x509.Certificate) -> None:
        patterns = _dns_names(leaf)
        missing = [name for name in self._site.names if not _covers(patterns, name)]
        if missing:
            self._problem(f"does not cover {', '.join(missing)}; its names are {', '.join(sorted(patterns)) or 'none'}")
        usage = _extension(leaf, x509.KeyUsage)
        if usage is not None and not usage.digital_signature:
            self._problem("its key usage does not allow digital signatures, which TLS servers make")
        extended = _extension(leaf, x509.ExtendedKeyUsage)
        allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
        if extended is not None and allowed.isdisjoint(extended):
            self._problem("its extended key usage does not allow TLS servers")


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:120] or "no subject"


def _extension(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    return constraints is not None and constraints.ca and (usage is None or usage.key_cert_sign)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _dns_names(leaf: x509.Certificate) -> set[str]:
    """The names clients compare with; a common name is not one of them (RFC 9525 2)."""
    alternatives = _extension(leaf, x509.SubjectAlternativeName)
    names = set()
    for name in alternatives.get_values_for_type(x509.DNSName) if alternatives else ():
        try:
            names.add(normalise_name(name))
        except ValueError:
            continue  # A name that no client can mean covers nothing.
    return names


def _covers(patterns: set[str], name: str) -> bool:
    try:
        return is_covered(normalise_name(name), patterns)
    except ValueError:
        return False
