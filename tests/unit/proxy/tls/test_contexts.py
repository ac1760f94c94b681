"""Contexts: built once from config and files, or not at all with every reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL._util import ffi

from hsm.wire.schemes import KeyType
from proxy.config.schema import SiteConfig, TlsConfig
from proxy.tls import contexts as module
from proxy.tls import provider
from proxy.tls.contexts import Contexts, build_contexts
from proxy.tls.problems import CertificateProblem, CertificateProblems, OptionProblem
from tests.support import pki
from tests.support.tls_peer import Served, build_sites

ROOT = pki.make_ca(key=pki.shared_key())


def certificate(kind: str = "p256", names: tuple[str, ...] = ("a.test",)) -> pki.Issued:
    return pki.issue(ROOT, names, pki.shared_key(kind))


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    folder = tmp_path_factory.mktemp("contexts")
    sites = [
        Served(("a.test",), (certificate(), certificate("rsa-2048")), default=True),
        Served(("b.test",), (certificate("p256", ("b.test",)),)),
    ]
    return build_sites(folder, sites, TlsConfig())[0]


def test_site_keys_are_all_keys_once(contexts: Contexts) -> None:
    keys = {kind: provider.ski_of(pki.shared_key(kind).public_key()) for kind in ("p256", "rsa-2048")}
    assert contexts.site_keys == ((keys["p256"], KeyType.P256), (keys["rsa-2048"], KeyType.RSA_2048))
    assert len(contexts.certificates) == 3
    assert contexts.warnings == ()


def test_sites_have_contexts_of_their_own(contexts: Contexts) -> None:
    a, b = contexts.find("a.test"), contexts.find("b.test")
    assert a is not None
    assert b is not None
    assert (a.name, b.name) == ("a.test", "b.test")
    assert a.context is not b.context
    assert contexts.front is a.context, "most connections need no switch"
    assert contexts.find("unknown.test") is contexts.find("") is a
    assert "SSL" not in repr(a)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (b"\x08http/1.1", b"http/1.1"),
        (b"\x02h2\x08http/1.1", b"http/1.1"),
        (b"\x02h2", None),
        (b"\x09\x08http/1.1", None),
        (b"\x09http/1.1", None),
        (b"\x00", None),
        (b"", None),
    ],
)
def test_alpn_choice(contexts: Contexts, offered: bytes, chosen: bytes | None) -> None:
    found = contexts.choose_protocol(offered)
    assert (None if found is None else ffi.buffer(found)[:]) == chosen


@given(st.binary(max_size=300))
def test_any_alpn_body_is_survived(offered: bytes) -> None:
    assert all(name in offered and len(name) <= name[0] + 1 for name in module._split(offered))


def test_all_problems_of_options_and_files_come_together(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "old.pem", pki.issue(ROOT, ["a.test"], days=-1))
    site = SiteConfig(names=("a.test",), certificates=("old.pem", "missing.pem"), upstream="web")
    with pytest.raises(CertificateProblems) as caught:
        build_contexts(TlsConfig(groups=("nope",), ciphers=("RC4-MD5",)), [site], tmp_path)
    kinds = [type(problem) for problem in caught.value.problems]
    assert kinds == [OptionProblem, OptionProblem, CertificateProblem, CertificateProblem]
    assert str(tmp_path / "missing.pem") in str(caught.value)


def test_options_alone_are_enough_to_fail(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "a.pem", certificate())
    site = SiteConfig(names=("a.test",), certificates=("a.pem",), upstream="web")
    with pytest.raises(CertificateProblems, match=r"^tls\.groups: 'nope': this OpenSSL has no such group$"):
        build_contexts(TlsConfig(groups=("nope",)), [site], tmp_path)


def test_sites_that_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(CertificateProblems, match=r"^sites: two sites have the name 'a\.test'$"):
        build_sites(tmp_path, [Served(("a.test",), (certificate(),)), Served(("b.test", "A.test"), (both(),))])


def both() -> pki.Issued:
    return certificate("p384", ("a.test", "b.test"))


def test_a_reference_to_another_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = provider.key_reference(pki.shared_key("p256", 5).public_key())
    monkeypatch.setattr(module.provider, "key_reference", lambda _key: wrong)
    with pytest.raises(CertificateProblems) as caught:
        build_sites(tmp_path, [Served(("a.test",), (certificate(),))])
    (problem,) = caught.value.problems
    assert isinstance(problem, CertificateProblem)
    assert problem.file == str(tmp_path / "site0-0.pem")
    assert "OpenSSL refuses the certificate or its key reference" in problem.reason


def test_expiry_is_judged_at_the_given_time(tmp_path: Path) -> None:
    pki.write_chain(tmp_path / "a.pem", certificate())
    site = SiteConfig(names=("a.test",), certificates=("a.pem",), upstream="web")
    soon = datetime.now(UTC) + timedelta(days=80)
    assert "renew it soon" in str(build_contexts(TlsConfig(), [site], tmp_path, now=soon).warnings[0])
    with pytest.raises(CertificateProblems, match="expired"):
        build_contexts(TlsConfig(), [site], tmp_path, now=soon + timedelta(days=80))


def test_no_file_of_ours_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(scratch))
    build_sites(tmp_path, [Served(("a.test",), (certificate(), certificate("ed25519")))])
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(("default", "is_strict"), [(False, False), (True, True)])
def test_connections_begin_without_a_certificate_where_strangers_are_refused(
    tmp_path: Path, default: bool, is_strict: bool
) -> None:
    sites = [Served(("a.test",), (certificate(),), default=default)]
    contexts = build_sites(tmp_path, sites, TlsConfig(strict_sni=is_strict))[0]
    a = contexts.find("a.test")
    assert a is not None
    assert contexts.front is not a.context
    assert contexts.find("unknown.test") is None
