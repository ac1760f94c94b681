"""A whole development PKI in one folder: authorities, identities of nodes and proxy, a token, and site certificates.

Site keys are generated inside the token and certified through requests, as in production; no file ever holds one.
Which kind of token it is decides the caller, by the `OpenSiteKeys` it passes; keys are found in it by their labels.
Making it again keeps what is still good: in date, of the same authority, for the same names and key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from certs import folder
from certs.authority import (
    Authority,
    PkiError,
    create_intermediate,
    create_root,
    is_issued_by,
    issue_from_csr,
    issue_identity,
    load_authority,
)
from certs.site_keys import OpenSiteKeys, TokenPlace, vault_keys
from certs.sites import DevSite
from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import KeyAdmin
from hsm.backends.x509_forms import FormProblem, parse_names
from hsm.shared.mtls import Identity
from hsm.wire.schemes import KeyType

__all__ = [
    "Authority",
    "DevPki",
    "DevPkiSpec",
    "DevSite",
    "PkiError",
    "create_dev_pki",
    "issue_from_csr",
    "issue_identity",
]

RENEW_BEFORE = timedelta(days=14)
_KIND = {KeyType.P256: "ecdsa", KeyType.RSA_2048: "rsa"}


@dataclass(frozen=True, slots=True)
class DevPkiSpec:
    """What `create_dev_pki` is to make."""

    folder: Path
    sites: Sequence[DevSite | str] = ("localhost",)
    nodes: int = 3
    """Identities node-1 .. node-N."""
    key_types: Sequence[KeyType] = (KeyType.P256, KeyType.RSA_2048)
    """One certificate of each type for every site that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class DevPki:
    """Where everything is."""

    folder: Path
    ca: Path
    intermediate: Path
    nodes: dict[str, Identity]
    """By name: "node-1" and so on. Known on links as sealgate://node/NAME."""
    proxy: Identity
    """Known on links as sealgate://proxy/dev."""
    token: TokenPlace
    """What holds the site keys."""
    sites: dict[str, dict[str, Path]]
    """Chains by site and kind: "ecdsa" (P-256), "rsa" (RSA-2048), others by their key type."""
    made: tuple[str, ...] = field(default=())
    """What this run made, relative to the folder."""
    kept: tuple[str, ...] = field(default=())
    """What it found good."""


def create_dev_pki(spec: DevPkiSpec, keys: OpenSiteKeys = vault_keys) -> DevPki:
    """Make or complete the PKI in `spec.folder`, with site keys in the token that `keys` makes or opens.

    Raises PkiError with a sentence; what was good stays.
    """
    if not 1 <= spec.nodes <= 100:
        raise PkiError(f"nodes must be 1 to 100, not {spec.nodes}")
    folder.make_private(spec.folder)
    try:
        with folder.only_writer(spec.folder):
            return _Build(spec).run(keys)
    except FormProblem as error:
        raise PkiError(str(error)) from None
    except OSError as error:
        raise PkiError(f"{error.filename or spec.folder} can't be used: {error.strerror}") from None


class _Build:
    """One run over one folder."""

    def __init__(self, spec: DevPkiSpec) -> None:
        self._spec = spec
        self._root_path = spec.folder
        self._now = datetime.now(UTC)
        self._made: list[str] = []
        self._kept: list[str] = []

    def run(self, open_keys: OpenSiteKeys) -> DevPki:
        base = self._root_path
        for name in ("nodes", "sites"):
            folder.make_private(base / name)
        issuer = self._authorities()
        node_names = [f"node-{number}" for number in range(1, self._spec.nodes + 1)]
        nodes = {name: self._node(name, issuer) for name in node_names}
        proxy = self._identity(base / "proxy", "proxy", "sealgate://proxy/dev", (), (), issuer)
        with open_keys(base) as keys:
            (self._made if keys.was_made else self._kept).append(keys.name)
            sites = self._sites(keys.admin, issuer)
        return DevPki(
            folder=base,
            ca=base / "ca.pem",
            intermediate=base / "intermediate.pem",
            nodes=nodes,
            proxy=proxy,
            token=keys.place,
            sites=sites,
            made=tuple(self._made),
            kept=tuple(self._kept),
        )

    def _authorities(self) -> Authority:
        root = self._authority("ca", None)
        return self._authority("intermediate", root)

    def _authority(self, name: str, root: Authority | None) -> Authority:
        certificate, key = self._root_path / f"{name}.pem", self._root_path / f"{name}.key"
        if certificate.exists() and key.exists():
            found = load_authority(certificate, key, is_root=root is None)
            if self._is_fresh(found.certificate) and (root is None or is_issued_by(found.certificate, root)):
                self._kept.append(certificate.name)
                return found
        common_name = f"Sealgate development {'root' if root is None else 'intermediate'}"
        made = create_root(common_name) if root is None else create_intermediate(common_name, root)
        folder.write(key, made.key_pem.reveal(), is_private=True)
        folder.write(certificate, made.certificate_pem, is_private=False)
        self._made.append(certificate.name)
        return made

    def _node(self, name: str, issuer: Authority) -> Identity:
        names, addresses = ("localhost", name), ("127.0.0.1", "::1")
        return self._identity(
            self._root_path / "nodes" / name, name, f"sealgate://node/{name}", names, addresses, issuer
        )

    def _identity(
        self, base: Path, name: str, uri: str, names: Sequence[str], addresses: Sequence[str], issuer: Authority
    ) -> Identity:
        certificate, key = base.with_name(f"{base.name}.pem"), base.with_name(f"{base.name}.key")
        identity = Identity(self._root_path / "ca.pem", certificate, key)
        if self._is_good_identity(identity, uri, issuer):
            self._kept.append(str(certificate.relative_to(self._root_path)))
            return identity
        chain, key_pem = issue_identity(issuer, name, uri, dns_names=names, addresses=addresses)
        folder.write(key, key_pem.reveal(), is_private=True)
        folder.write(certificate, chain, is_private=False)
        self._made.append(str(certificate.relative_to(self._root_path)))
        return identity

    def _is_good_identity(self, identity: Identity, uri: str, issuer: Authority) -> bool:
        leaf = self._good_leaf(identity.certificate, issuer)
        if leaf is None:
            return False
        try:
            key = load_pem_private_key(identity.private_key.read_bytes(), None)
        except (OSError, ValueError, TypeError):
            return False
        if identity.private_key.stat().st_mode & 0o077 or key.public_key() != leaf.public_key():
            return False
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return uri in alternative.get_values_for_type(x509.UniformResourceIdentifier)

    def _sites(self, keys: KeyAdmin, issuer: Authority) -> dict[str, dict[str, Path]]:
        labels = {record.label: record.ski for record in keys.list()}
        chains: dict[str, dict[str, Path]] = {}
        for wanted in self._spec.sites:
            site = DevSite(wanted) if isinstance(wanted, str) else wanted
            kinds = {_KIND.get(type_, type_.value): type_ for type_ in site.key_types or self._spec.key_types}
            chains[site.name] = {
                kind: self._site(keys, site, kind, type_, labels, issuer) for kind, type_ in kinds.items()
            }
        return chains

    def _site(
        self, keys: KeyAdmin, site: DevSite, kind: str, type_: KeyType, labels: dict[str, bytes], issuer: Authority
    ) -> Path:
        label = f"{site.file_name}-{kind}"
        path = self._root_path / "sites" / f"{label}.pem"
        names = parse_names(site.all_names)
        if label not in labels:
            labels[label] = keys.generate(type_, label, KeyAttributes()).ski
        leaf = self._good_leaf(path, issuer)
        if leaf is not None and self._fits(leaf, names, labels[label]):
            self._kept.append(f"sites/{path.name}")
            return path
        first = site.all_names[0]
        csr = keys.csr(labels[label].hex(), f"CN={first}" if len(first) <= 64 else "CN=site", site.all_names)
        folder.write(path, issue_from_csr(issuer, csr), is_private=False)
        self._made.append(f"sites/{path.name}")
        return path

    def _fits(self, leaf: x509.Certificate, names: list[x509.GeneralName], ski: bytes) -> bool:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        own_ski = x509.SubjectKeyIdentifier.from_public_key(leaf.public_key()).digest
        return list(alternative) == names and own_ski == ski

    def _good_leaf(self, path: Path, issuer: Authority) -> x509.Certificate | None:
        """The leaf of a chain file when it is in date and the issuer's; None means that a new one is to be made."""
        try:
            chain = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError):
            return None
        if chain[1:] != list(issuer.chain) or not is_issued_by(chain[0], issuer):
            return None
        return chain[0] if self._is_fresh(chain[0]) else None

    def _is_fresh(self, certificate: x509.Certificate) -> bool:
        is_begun = certificate.not_valid_before_utc <= self._now
        return is_begun and self._now + RENEW_BEFORE < certificate.not_valid_after_utc
