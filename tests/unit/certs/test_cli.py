from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from certs.cli import certs_app
from hsm.backends.vault import VaultAdmin, open_store
from hsm.wire.schemes import KeyType


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(certs_app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_pki_is_made_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    command = ("dev", "--dir", folder, "--site", "a.example", "--nodes", "1", "--key-type", "p256")
    status, output = run(*command)
    assert status == 0, output
    assert f"made  {folder}/sites/a.example-ecdsa.pem" in output
    assert f"curl --cacert {folder}/ca.pem" in output
    status, output = run(*command)
    assert status == 0
    assert f"kept  {folder}/sites/a.example-ecdsa.pem" in output
    assert not [line for line in output.splitlines() if line.startswith("made")]


@pytest.mark.parametrize("backend", ["vault", "pkcs11"])
def test_it_prints_what_nodes_need(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("dev", "--dir", "pki", "--nodes", "1", "--key-type", "p384", "--backend", backend)
    status, output = run(*command)
    assert status == 0, output
    _, _, section = output.partition("in node.toml:\n")
    (token,) = tomllib.loads(section)["tokens"]
    assert token["type"] == backend
    for name in ("store", "key_file") if backend == "vault" else ("module", "pin_file", "book"):
        assert Path(token[name]).is_file(), "paths are absolute: a node's config may be anywhere"
        assert Path(token[name]).is_absolute()
    status, output = run(*command)
    assert status == 0, output
    assert not [line for line in output.splitlines() if line.startswith("made")]


def test_a_request_is_certified(tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    assert run("dev", "--dir", folder, "--nodes", "1", "--key-type", "p256")[0] == 0
    store = open_store(folder / "vault" / "store.db", key_file=folder / "vault" / "master.key")
    admin = VaultAdmin(store)
    admin.generate(KeyType.ED25519, "shop")
    (tmp_path / "shop.csr").write_bytes(admin.csr("shop", "CN=shop.example", ["shop.example"]))
    store.close()
    command = ("sign", "--dir", folder, "--csr", tmp_path / "shop.csr", "--out", tmp_path / "shop.pem", "--days", "7")
    assert run(*command) == (0, f"made  {tmp_path}/shop.pem\n")
    assert len(x509.load_pem_x509_certificates((tmp_path / "shop.pem").read_bytes())) == 2
    status, output = run("sign", "--dir", folder, "--csr", tmp_path / "no.csr", "--out", tmp_path / "x.pem")
    assert (status, output) == (1, f"error: {tmp_path}/no.csr can't be read: No such file or directory\n")
    (tmp_path / "no.csr").write_text("nonsense")
    status, output = run("sign", "--dir", folder, "--csr", tmp_path / "no.csr", "--out", tmp_path / "x.pem")
    assert (status, output) == (1, f"error: {tmp_path}/no.csr: this is not a PEM certificate request\n")
    status, output = run("sign", "--dir", tmp_path, "--csr", tmp_path / "shop.csr", "--out", tmp_path / "x.pem")
    assert status == 1
    assert "intermediate.pem can't be read" in output


def test_mistakes_are_sentences_and_not_tracebacks(tmp_path: Path) -> None:
    status, output = run("dev", "--dir", tmp_path / "p", "--key-type", "rsa-1")
    assert status == 2
    assert "key types are rsa-2048" in output
    (tmp_path / "file").touch()
    status, output = run("dev", "--dir", tmp_path / "file")
    assert (status, output) == (1, f"error: {tmp_path}/file is not a folder; choose another\n")


def test_importing_the_command_does_not_import_cryptography() -> None:
    program = "import sys, certs.cli, hsm.cli.vault; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_folder_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "pki" / ".lock"
    lock.mkdir(parents=True)
    status, output = run("dev", "--dir", tmp_path / "pki")
    assert (status, output) == (1, f"error: {lock} can't be used: Is a directory\n")
