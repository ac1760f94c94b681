"""Engine with several sites and certificates: what a client says decides what it is shown, and who is refused."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import SSL, crypto

from hsm.wire.schemes import Scheme
from proxy.base.errors import TlsReason
from proxy.config.schema import TlsConfig
from proxy.tls.contexts import Contexts
from proxy.tls.engine import TlsEngine
from tests.support import pki
from tests.support.tls_peer import (
    Conversation,
    Keys,
    PyOpenSslClient,
    Served,
    StdlibClient,
    build_sites,
    client_context,
)

ROOT = pki.make_ca("Root", key=pki.shared_key())
INTER_EC = pki.issue(ROOT, "Intermediate EC", pki.shared_key("p384"), is_ca=True)
INTER_RSA = pki.issue(ROOT, "Intermediate RSA", pki.shared_key("rsa-2048", 1), is_ca=True)
TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
A, B, WILD = ("a.test",), ("b.test", "www.b.test"), ("*.wild.test",)


def build(folder: Path, tls: TlsConfig | None = None, *, default: bool = True) -> tuple[Contexts, Keys]:
    """a.test shows EC (with its intermediate), RSA (with another) and Ed25519; b.test and *.wild.test show EC."""
    rich = (
        pki.issue(INTER_EC, A, pki.shared_key("p256")),
        pki.issue(INTER_RSA, A, pki.shared_key("rsa-2048")),
        pki.issue(ROOT, A, pki.shared_key("ed25519")),
    )
    sites = [
        Served(A, rich, default),
        Served(B, (pki.issue(ROOT, B, pki.shared_key("p256", 2)),)),
        Served(WILD, (pki.issue(INTER_EC, WILD, pki.shared_key("p256", 3)),)),
    ]
    return build_sites(folder, sites, tls)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Contexts, Keys]:
    return build(tmp_path_factory.mktemp("sites"))


def talk(
    served: tuple[Contexts, Keys],
    server_name: str | None,
    context: ssl.SSLContext | None = None,
    session: ssl.SSLSession | None = None,
    **changes: object,
) -> Conversation:
    """One whole conversation with a stdlib client."""
    context = context or client_context(ROOT, **changes)
    return Conversation(TlsEngine(served[0]), StdlibClient(context, server_name, session), served[1].sign).run()


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize(
    ("server_name", "site"),
    [("a.test", "a.test"), ("B.test", "b.test"), ("www.b.test", "b.test"), ("x.wild.test", "*.wild.test")],
)
def test_sni_chooses_the_site(
    served: tuple[Contexts, Keys], version: ssl.TLSVersion, server_name: str, site: str
) -> None:
    one = talk(served, server_name, maximum_version=version)
    assert (one.done.site, one.done.server_name) == (site, server_name.lower())


@pytest.mark.parametrize("server_name", [None, "other.test", "deep.x.wild.test"])
def test_others_get_the_default_site(served: tuple[Contexts, Keys], server_name: str | None) -> None:
    one = talk(served, server_name, check_hostname=False)
    assert (one.done.site, one.done.server_name) == ("a.test", server_name or "")


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize(("strict", "default"), [(True, True), (False, False)])
def test_strangers_are_refused_by_name(tmp_path: Path, version: ssl.TLSVersion, strict: bool, default: bool) -> None:
    served = build(tmp_path, TlsConfig(strict_sni=strict), default=default)
    for server_name in (None, "other.test"):
        one = talk(served, server_name, maximum_version=version, check_hostname=False)
        assert (one.failed.reason, one.failed.site) == (TlsReason.UNKNOWN_SITE, "")
        assert "unrecognized name" in str(one.client_error).lower()
    assert talk(served, "b.test", maximum_version=version).done.site == "b.test"


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize(
    ("algorithms", "scheme", "chain"),
    [
        ("ECDSA+SHA256", Scheme.ECDSA_SHA256, ["a.test", "Intermediate EC"]),
        ("rsa_pss_rsae_sha256", Scheme.RSA_PSS_SHA256, ["a.test", "Intermediate RSA"]),
        ("rsa_pss_rsae_sha512", Scheme.RSA_PSS_SHA512, ["a.test", "Intermediate RSA"]),
        ("ed25519", Scheme.ED25519, ["a.test"]),
    ],
)
def test_signature_algorithms_choose_the_certificate_with_its_own_chain(
    served: tuple[Contexts, Keys], version: int, algorithms: str, scheme: Scheme, chain: list[str]
) -> None:
    contexts, keys = served
    client = PyOpenSslClient(ROOT, "a.test", version=version, sigalgs=algorithms)
    Conversation(TlsEngine(contexts), client, keys.sign).run().done  # noqa: B018  # it raises where there is none
    assert keys.schemes[-1] is scheme
    shown = client.tls.get_peer_cert_chain(as_cryptography=True) or []
    names = [one.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value for one in shown]
    assert names[: len(chain)] == chain
    assert len(shown) == len(chain)


def test_pkcs1_signatures_in_tls12(served: tuple[Contexts, Keys]) -> None:
    contexts, keys = served
    client = PyOpenSslClient(ROOT, "a.test", version=SSL.TLS1_2_VERSION, sigalgs="RSA+SHA384")
    assert Conversation(TlsEngine(contexts), client, keys.sign).run().done.cipher.startswith("ECDHE-RSA-")
    assert keys.schemes[-1] is Scheme.RSA_PKCS1_SHA384


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_no_certificate_for_the_clients_algorithms(served: tuple[Contexts, Keys], version: int) -> None:
    contexts, keys = served
    client = PyOpenSslClient(ROOT, "b.test", version=version, sigalgs="rsa_pss_rsae_sha256")
    failed = Conversation(TlsEngine(contexts), client, keys.sign).run().failed
    assert failed.reason in (TlsReason.NO_SHARED_SIGNATURE, TlsReason.NO_SHARED_CIPHER), failed
    assert failed.site == "b.test"


def test_the_post_quantum_group_comes_first(served: tuple[Contexts, Keys]) -> None:
    contexts, keys = served
    for groups, expected in [
        ("X25519MLKEM768:X25519", "X25519MLKEM768"),
        ("X25519:P-256", "x25519"),
        ("P-384:P-256", "secp384r1"),  # its share is there: our favourite would cost a round trip
    ]:
        client = PyOpenSslClient(ROOT, "a.test", groups=groups)
        assert Conversation(TlsEngine(contexts), client, keys.sign).run().done.group == expected


@pytest.mark.parametrize(
    ("version", "reason"), [(TLS13, TlsReason.NO_SHARED_GROUP), (TLS12, TlsReason.NO_SHARED_CIPHER)]
)
def test_no_shared_group(tmp_path: Path, version: ssl.TLSVersion, reason: TlsReason) -> None:
    served = build(tmp_path, TlsConfig(groups=("X25519MLKEM768",)))
    one = talk(served, "a.test", maximum_version=version)
    assert one.failed.reason in (reason, TlsReason.NO_SHARED_GROUP), one.failed


def test_versions_are_as_configured(tmp_path: Path) -> None:
    served = build(tmp_path, TlsConfig(min_version="1.3"))
    one = talk(served, "a.test", maximum_version=TLS12)
    assert one.failed.reason is TlsReason.PROTOCOL_VERSION
    assert talk(served, "a.test").done.version == "TLSv1.3"


def test_a_client_without_the_right_share_is_asked_again(tmp_path: Path) -> None:
    served = build(tmp_path, TlsConfig(groups=("P-384", "P-256")))
    one = talk(served, "b.test")
    assert (one.done.group, one.done.site) == ("secp384r1", "b.test")


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("kind", ["p256", "rsa-2048", "none"])
def test_client_certificates_do_not_mind_waiting(tmp_path: Path, version: ssl.TLSVersion, kind: str) -> None:
    served = build(tmp_path)
    site = served[0].find("b.test")
    assert site is not None
    store = site.context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(ROOT.certificate))
    served[0].front.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    context = client_context(ROOT, maximum_version=version)
    if kind != "none":
        identity = pki.issue(ROOT, ["client.test"], pki.shared_key(kind))
        context.load_cert_chain(
            pki.write_chain(tmp_path / "client.pem", identity), pki.write_key(tmp_path / "client.key", identity)
        )
    one = talk(served, "b.test", context)
    if kind == "none":
        assert one.failed.reason is TlsReason.BAD_RECORD
        assert "peer did not return a certificate" in one.failed.detail
    else:
        assert one.done.site == "b.test"


def test_ciphers_are_as_configured(tmp_path: Path) -> None:
    served = build(
        tmp_path,
        TlsConfig(ciphersuites=("TLS_CHACHA20_POLY1305_SHA256",), ciphers=("ECDHE-ECDSA-AES256-GCM-SHA384",)),
    )
    assert talk(served, "a.test").done.cipher == "TLS_CHACHA20_POLY1305_SHA256"
    assert talk(served, "a.test", maximum_version=TLS12).done.cipher == "ECDHE-ECDSA-AES256-GCM-SHA384"
    context = client_context(ROOT, maximum_version=TLS12)
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    assert talk(served, "a.test", context).failed.reason is TlsReason.NO_SHARED_CIPHER


def test_alpn_is_agreed_on_every_site(served: tuple[Contexts, Keys]) -> None:
    context = client_context(ROOT)
    context.set_alpn_protocols(["h3", "http/1.1"])
    for server_name in ("a.test", "b.test", "x.wild.test"):
        one = talk(served, server_name, context)
        assert one.done.alpn == one.client.tls.selected_alpn_protocol() == "http/1.1"
    assert talk(served, "a.test").done.alpn == ""


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("server_name", ["a.test", "b.test"])
def test_no_shared_protocol_is_fatal(served: tuple[Contexts, Keys], version: ssl.TLSVersion, server_name: str) -> None:
    context = client_context(ROOT, maximum_version=version)
    context.set_alpn_protocols(["spdy/3", "http/1.", "ttp/1.1"])
    one = talk(served, server_name, context)
    assert (one.failed.reason, one.failed.site) == (TlsReason.NO_SHARED_ALPN, server_name)
    assert "no application protocol" in str(one.client_error).lower()


@pytest.mark.parametrize("version", [TLS12, TLS13])
@pytest.mark.parametrize("server_name", ["a.test", "b.test"])
def test_tickets_resume_without_a_signature(
    served: tuple[Contexts, Keys], version: ssl.TLSVersion, server_name: str
) -> None:
    context = client_context(ROOT, maximum_version=version)
    first = talk(served, server_name, context)
    assert not first.done.is_resumed
    session = first.client.tls.session
    assert session is not None
    count = len(served[1].schemes)
    again = talk(served, server_name, context, session)
    assert again.done.is_resumed
    assert again.client.tls.session_reused
    assert again.done.site == server_name
    assert len(served[1].schemes) == count


def test_a_session_does_not_open_another_site(served: tuple[Contexts, Keys]) -> None:
    context = client_context(ROOT, minimum_version=TLS13)
    session = talk(served, "b.test", context).client.tls.session
    refused = talk(served, "a.test", context, session)
    assert (refused.failed.reason, refused.failed.site) == (TlsReason.UNKNOWN_SITE, "")
    assert "another site" in refused.failed.detail
    # Another name of the same site is no other site.
    assert talk(served, "www.b.test", context, session).done.is_resumed


def test_a_tls12_session_leads_to_its_own_site(served: tuple[Contexts, Keys]) -> None:
    context = client_context(ROOT, maximum_version=TLS12)
    session = talk(served, "b.test", context).client.tls.session
    done = talk(served, "a.test", context, session).done
    assert (done.site, done.server_name) == ("b.test", "b.test")


def test_sessions_of_clients_without_a_name_resume(served: tuple[Contexts, Keys]) -> None:
    for version in (TLS12, TLS13):
        context = client_context(ROOT, maximum_version=version, check_hostname=False)
        for server_name in (None, "other.test"):
            first = talk(served, server_name, context)
            again = talk(served, server_name, context, first.client.tls.session)
            assert (again.done.is_resumed, again.done.site) == (True, "a.test")


def test_tickets_can_be_turned_off(tmp_path: Path) -> None:
    served = build(tmp_path, TlsConfig(tickets=False))
    for version in (TLS12, TLS13):
        context = client_context(ROOT, maximum_version=version)
        first = talk(served, "a.test", context)
        again = talk(served, "a.test", context, first.client.tls.session)
        assert not again.done.is_resumed


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_a_ticket_resumes_in_another_worker(served: tuple[Contexts, Keys], version: ssl.TLSVersion) -> None:
    context = client_context(ROOT, maximum_version=version)
    reader, writer = os.pipe()
    session = talk(served, "b.test", context).client.tls.session
    child = os.fork()
    if child == 0:
        status = b"failed"
        try:
            status = b"resumed" if talk(served, "b.test", context, session).done.is_resumed else b"full"
        finally:
            os.write(writer, status)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"resumed"
    os.waitpid(child, 0)


def test_renegotiation_is_refused(served: tuple[Contexts, Keys]) -> None:
    contexts, keys = served
    client = PyOpenSslClient(ROOT, "a.test", version=SSL.TLS1_2_VERSION)
    one = Conversation(TlsEngine(contexts), client, keys.sign).run()
    assert one.done.version == "TLSv1.2"
    assert client.tls.renegotiate()
    client.is_done = False
    one.run()
    assert one.failed.reason is TlsReason.RENEGOTIATION
    assert one.client_error is not None


def test_data_after_tickets(served: tuple[Contexts, Keys]) -> None:
    contexts, keys = served
    client = PyOpenSslClient(ROOT, "a.test")
    one = Conversation(TlsEngine(contexts), client, keys.sign).run()
    client.tls.sendall(b"up" * 50_000)
    one.engine.send(b"down" * 50_000)
    one.run()
    assert one.plaintext == b"up" * 50_000
    assert bytes(client.received) == b"down" * 50_000
