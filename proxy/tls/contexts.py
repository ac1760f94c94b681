"""The TLS contexts of all sites: built once, before the workers are forked, and never changed.

A connection begins with the *front* context: the default site's, so that most need no switch, or, where no site serves
strangers, one without a certificate. The server name callback then switches it to
its site's context. Session tickets always belong to the context a connection began with, so one front means one set
of ticket keys for all sites and, because it exists before the fork, for all workers.

A site's context has one certificate per key family, each with intermediates of its own and with a key *reference*: a
PEM that names a key on the nodes and contains only its public part.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi

from hsm.wire.schemes import KeyType
from proxy.config.schema import SiteConfig, TlsConfig
from proxy.tls import provider
from proxy.tls.callbacks import ask_for_signature, set_alpn_callback, set_server_name_callback
from proxy.tls.certificates import LoadedCertificates, SiteCertificate, load_certificates
from proxy.tls.openssl_errors import describe, forget_errors, take_errors
from proxy.tls.options import apply_options, check_options
from proxy.tls.problems import CertificateProblem, CertificateProblems, OptionProblem, TlsProblem
from proxy.tls.sites import SiteNames, SiteTable


@dataclass(frozen=True, slots=True)
class SiteContext:
    """One site and the context that shows its certificates."""

    name: str
    context: SSL.Context = field(repr=False)


class Contexts:
    """Everything a new connection needs, and what the certificates say of keys."""

    def __init__(
        self, front: SSL.Context, sites: SiteTable[SiteContext], protocols: Sequence[str], loaded: LoadedCertificates
    ) -> None:
        """Use `build_contexts`."""
        self.front = front
        self._sites = sites
        # OpenSSL is given pointers to these names, so they live as long as the contexts.
        self._protocols: tuple[tuple[bytes, Any], ...] = tuple(
            (_with_length(name), ffi.new("unsigned char[]", list(name.encode()))) for name in protocols
        )
        self.certificates: tuple[SiteCertificate, ...] = tuple(
            certificate for of_site in loaded.by_site.values() for certificate in of_site
        )
        self.warnings: tuple[CertificateProblem, ...] = loaded.warnings

    @property
    def site_keys(self) -> tuple[tuple[bytes, KeyType], ...]:
        """SKI and type of every key that a certificate needs, each once."""
        return tuple(dict.fromkeys((one.ski, one.key_type) for one in self.certificates))

    def find(self, server_name: str) -> SiteContext | None:
        """The site for a client's `clean_server_name` ("" for none), or None where the client must be refused."""
        return self._sites.find(server_name)

    def site_named(self, server_name: str) -> str:
        """The name of that site, or "" where there is none."""
        site = self.find(server_name)
        return site.name if site is not None else ""

    def choose_protocol(self, offered: bytes) -> Any:
        """Our best ALPN protocol that the client offered, as a char array; None where none is shared.

        A match inside another name's bytes is not possible: `offered` is walked by its lengths.
        """
        names = _split(offered)
        return next((chosen for name, chosen in self._protocols if name in names), None)


def _with_length(name: str) -> bytes:
    return bytes((len(name),)) + name.encode()


def _split(offered: bytes) -> set[bytes]:
    """The protocols of an ALPN extension, each still behind its length."""
    names = set()
    while offered:
        end = offered[0] + 1
        names.add(offered[:end])
        offered = offered[end:]
    return names


def build_contexts(
    tls: TlsConfig, sites: Sequence[SiteConfig], base_dir: Path, *, now: datetime | None = None
) -> Contexts:
    """Check options and certificates and build the contexts; `now` is an aware time, the current one by default.

    `provider.install()` must have been called. Raises CertificateProblems with everything that is wrong: every file
    of every site, every option, and what OpenSSL itself refuses.
    """
    problems: list[TlsProblem] = list(check_options(tls))
    try:
        loaded = load_certificates(sites, base_dir, now=now or datetime.now(UTC))
    except CertificateProblems as error:
        raise CertificateProblems([*problems, *error.problems]) from None
    if problems:
        raise CertificateProblems(problems)
    provider.set_upcall(ask_for_signature)
    contexts = {site.name: _site_context(tls, loaded.by_site[site.name], problems) for site in sites}
    if problems:
        raise CertificateProblems(problems)
    default = next((contexts[site.name] for site in sites if site.default and not tls.strict_sni), None)
    front = default or _new_context(tls)
    set_server_name_callback(front)
    table = _site_table(tls, sites, contexts)
    return Contexts(front, table, tls.alpn, loaded)


def _site_table(
    tls: TlsConfig, sites: Sequence[SiteConfig], contexts: dict[str, SSL.Context]
) -> SiteTable[SiteContext]:
    try:
        return SiteTable(
            (SiteNames(site.names, site.default, SiteContext(site.name, contexts[site.name])) for site in sites),
            is_strict=tls.strict_sni,
        )
    except ValueError as error:
        raise CertificateProblems([OptionProblem("sites", str(error))]) from None


def _new_context(tls: TlsConfig) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    apply_options(context, tls)
    if tls.alpn:
        set_alpn_callback(context)
    return context


def _site_context(
    tls: TlsConfig,
    certificates: Sequence[SiteCertificate],
    problems: list[TlsProblem],
) -> SSL.Context:
    context = _new_context(tls)
    for certificate in certificates:
        try:
            _use(context, certificate)
        except SSL.Error as error:
            texts = "; ".join(dict.fromkeys(entry[2] for entry in error.args[0])) if error.args else str(error)
            reason = f"OpenSSL refuses the certificate or its key reference: {texts or describe(take_errors())}"
            problems.append(CertificateProblem(certificate.file, certificate.site, reason))
            forget_errors()
    return context


def _use(context: SSL.Context, certificate: SiteCertificate) -> None:
    """Add a certificate with its own intermediates and the reference to its key.

    Only files give each certificate a chain of its own: `add_extra_chain_cert` is shared by all of a context. They are
    written from what was checked, so that a file that changes meanwhile cannot slip in.
    """
    with tempfile.TemporaryDirectory(prefix="sealgate-") as folder:
        chain, reference = Path(folder) / "chain.pem", Path(folder) / "key-reference.pem"
        chain.write_bytes(certificate.chain_pem)
        reference.write_bytes(provider.key_reference(certificate.public_key))
        context.use_certificate_chain_file(str(chain))
        context.use_privatekey_file(str(reference))
        context.check_privatekey()
