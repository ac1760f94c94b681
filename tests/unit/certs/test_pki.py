from __future__ import annotations

import shutil
import ssl
import stat
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs import pki as pki_module
from certs.pki import DevPki, DevPkiSpec, DevSite, PkiError, create_dev_pki
from certs.site_keys import VaultPlace
from hsm.backends.vault import VaultAdmin, VaultBackend, open_store
from hsm.shared.mtls import client_context, peer_identity, server_context
from hsm.wire.schemes import KeyType, Scheme


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DevPki:
    folder = tmp_path_factory.mktemp("pki") / "dev"
    return create_dev_pki(DevPkiSpec(folder, ("localhost", "*.example.test"), nodes=2))


def vault_of(pki: DevPki) -> VaultPlace:
    assert isinstance(pki.token, VaultPlace)
    return pki.token


def leaf_of(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_everything_is_where_it_says(made: DevPki) -> None:
    assert sorted(made.nodes) == ["node-1", "node-2"]
    assert sorted(made.sites) == ["*.example.test", "localhost"]
    assert isinstance(leaf_of(made.sites["localhost"]["ecdsa"]).public_key(), ec.EllipticCurvePublicKey)
    assert isinstance(leaf_of(made.sites["localhost"]["rsa"]).public_key(), rsa.RSAPublicKey)
    for path in (made.ca, made.intermediate, vault_of(made).store, vault_of(made).key_file, made.proxy.certificate):
        assert path.is_file()
    names = leaf_of(made.sites["localhost"]["rsa"]).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.value.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_private_files_are_private(made: DevPki) -> None:
    for path in made.folder.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700
        else:
            assert mode == (0o644 if path.suffix == ".pem" else 0o600), path
    assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700


def test_site_keys_are_in_the_vault_and_in_no_file(made: DevPki) -> None:
    keys = [path for path in made.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in keys) == ["ca.key", "intermediate.key", "node-1.key", "node-2.key", "proxy.key"]
    store = open_store(vault_of(made).store, key_file=vault_of(made).key_file)
    backend = VaultBackend(store)
    by_ski = {entry.ski: entry for entry in backend.keys()}  # noqa: SIM118
    for chains in made.sites.values():
        for path in chains.values():
            public = leaf_of(path).public_key()
            entry = by_ski[x509.SubjectKeyIdentifier.from_public_key(public).digest]
            scheme = Scheme.ECDSA_SHA256 if entry.type is KeyType.P256 else Scheme.RSA_PSS_SHA256
            assert backend.sign(entry.ski, scheme, b"d" * 32)
    assert not [record for record in VaultAdmin(store).list() if record.imported]
    store.close()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_openssl_verifies_strictly(made: DevPki, kind: str) -> None:
    chain = str(made.sites["localhost"][kind])
    for name in (("-verify_hostname", "localhost"), ("-verify_ip", "127.0.0.1")):
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(made.ca), *name]
        run = subprocess.run([*command, "-untrusted", chain, chain], capture_output=True, text=True, timeout=30)
        assert run.returncode == 0, run.stderr
    for identity in (made.proxy, made.nodes["node-1"]):
        own = str(identity.certificate)
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", str(made.ca)]
        run = subprocess.run([*command, "-untrusted", own, own], capture_output=True, text=True, timeout=30)
        assert run.returncode == 0, run.stderr


@pytest.mark.skipif(shutil.which("certtool") is None, reason="GnuTLS tools are not installed")
@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_gnutls_verifies(made: DevPki, kind: str) -> None:
    chain = made.sites["localhost"][kind]
    command = ["certtool", "--verify", "--verify-hostname", "localhost", "--verify-purpose", "1.3.6.1.5.5.7.3.1"]
    command += ["--load-ca-certificate", str(made.ca), "--infile", str(chain)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Verified. The certificate is trusted" in run.stdout


def test_node_and_proxy_trust_each_other(made: DevPki) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(made.proxy).wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = server_context(made.nodes["node-2"]).wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    seen_by_server, seen_by_client = server.getpeercert(), client.getpeercert()
    assert seen_by_server is not None
    assert seen_by_client is not None
    assert peer_identity(seen_by_server) == "sealgate://proxy/dev"
    assert peer_identity(seen_by_client) == "sealgate://node/node-2"


def spec_of(folder: Path, **change: Any) -> DevPkiSpec:
    return replace(DevPkiSpec(folder / "p", ("localhost",), nodes=1, key_types=(KeyType.P256,)), **change)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".pem", ".key")}


def test_a_second_run_keeps_what_is_valid_and_says_so(tmp_path: Path) -> None:
    first = create_dev_pki(spec_of(tmp_path))
    assert first.kept == ()
    before = contents(tmp_path)
    second = create_dev_pki(spec_of(tmp_path))
    assert second.made == ()
    assert sorted(second.kept) == sorted(first.made)
    assert contents(tmp_path) == before
    third = create_dev_pki(spec_of(tmp_path, nodes=2, key_types=(KeyType.P256, KeyType.ED25519, KeyType.P384)))
    assert sorted(third.made) == ["nodes/node-2.pem", "sites/localhost-ed25519.pem", "sites/localhost-p384.pem"]
    assert before.items() <= contents(tmp_path).items()


def damage_certificate(pki: DevPki) -> None:
    pki.sites["localhost"]["ecdsa"].write_text("junk")


def remove_identity_key(pki: DevPki) -> None:
    pki.nodes["node-1"].private_key.unlink()


def open_identity_key(pki: DevPki) -> None:
    pki.proxy.private_key.chmod(0o644)


def destroy_site_key(pki: DevPki) -> None:
    store = open_store(vault_of(pki).store, key_file=vault_of(pki).key_file)
    VaultAdmin(store).destroy("localhost-ecdsa")
    store.close()


@pytest.mark.parametrize(
    ("harm", "remade"),
    [
        (damage_certificate, ["sites/localhost-ecdsa.pem"]),
        (remove_identity_key, ["nodes/node-1.pem"]),
        (open_identity_key, ["proxy.pem"]),
        (destroy_site_key, ["sites/localhost-ecdsa.pem"]),
    ],
)
def test_what_is_not_good_any_more_is_made_again(harm: Any, remade: list[str], tmp_path: Path) -> None:
    harm(create_dev_pki(spec_of(tmp_path)))
    assert list(create_dev_pki(spec_of(tmp_path)).made) == remade
    assert create_dev_pki(spec_of(tmp_path)).made == ()


def test_a_site_with_other_names_gets_a_new_certificate(tmp_path: Path) -> None:
    create_dev_pki(spec_of(tmp_path))
    site = DevSite("localhost", ("localhost", "www.example.test"))
    assert create_dev_pki(spec_of(tmp_path, sites=(site,))).made == ("sites/localhost-ecdsa.pem",)


def test_a_site_may_want_keys_of_its_own_kind(tmp_path: Path) -> None:
    sites = ("localhost", DevSite("p384.localhost", key_types=(KeyType.P384,)))
    pki = create_dev_pki(spec_of(tmp_path, sites=sites))
    assert {site: sorted(chains) for site, chains in pki.sites.items()} == {
        "localhost": ["ecdsa"],
        "p384.localhost": ["p384"],
    }
    leaf = leaf_of(pki.sites["p384.localhost"]["p384"])
    public = leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert isinstance(public.curve, ec.SECP384R1)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["p384.localhost"]
    chain = str(pki.sites["p384.localhost"]["p384"])
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(pki.ca)]
    run = subprocess.run([*command, "-untrusted", chain, chain], capture_output=True, text=True, timeout=30)
    assert run.returncode == 0, run.stderr


def test_certificates_are_renewed_before_they_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_dev_pki(spec_of(tmp_path))

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=390)

    monkeypatch.setattr(pki_module, "datetime", Later)
    remade = create_dev_pki(spec_of(tmp_path))
    assert sorted(remade.made) == ["nodes/node-1.pem", "proxy.pem", "sites/localhost-ecdsa.pem"]
    assert leaf_of(remade.proxy.certificate).not_valid_after_utc > datetime.now(UTC)


def test_a_new_authority_certifies_everything_again(tmp_path: Path) -> None:
    first = create_dev_pki(spec_of(tmp_path))
    before = leaf_of(first.sites["localhost"]["ecdsa"])
    first.ca.unlink()
    second = create_dev_pki(spec_of(tmp_path))
    assert second.kept == ("vault/store.db",)
    after = leaf_of(second.sites["localhost"]["ecdsa"])
    assert after.serial_number != before.serial_number
    assert after.public_key() == before.public_key(), "the key stays in the vault"


def test_what_can_not_be_made_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="nodes must be 1 to 100"):
        create_dev_pki(spec_of(tmp_path, nodes=0))
    with pytest.raises(PkiError, match="'not a name' is not a DNS name"):
        create_dev_pki(spec_of(tmp_path, sites=("not a name",)))
    create_dev_pki(spec_of(tmp_path))
    (tmp_path / "p" / "vault" / "master.key").chmod(0o644)
    with pytest.raises(PkiError, match="chmod 600"):
        create_dev_pki(spec_of(tmp_path))
    (tmp_path / "p" / "vault" / "master.key").unlink()
    with pytest.raises(PkiError, match=r"master\.key does not exist"):
        create_dev_pki(spec_of(tmp_path))
