from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certs import softhsm_keys
from certs.authority import PkiError
from certs.pki import DevPkiSpec, create_dev_pki
from certs.softhsm_keys import find_module
from hsm.wire.schemes import KeyType


def test_a_token_is_made_with_a_pin_that_only_its_owner_reads(tmp_path: Path) -> None:
    assert softhsm_keys._make_token(tmp_path, find_module()) is True
    pin = (tmp_path / "pin").read_text().strip()
    assert len(pin) == 24
    assert stat.S_IMODE((tmp_path / "pin").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pin", "tokens"], "no draft is left"
    files = [path for path in (tmp_path / "tokens").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert pin.encode() not in path.read_bytes()
    before = {path: path.read_bytes() for path in files}
    assert softhsm_keys._make_token(tmp_path, find_module()) is False
    assert {path: path.read_bytes() for path in files} == before
    assert (tmp_path / "pin").read_text().strip() == pin


def test_no_pin_is_on_a_command_line_or_in_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = softhsm_keys.subprocess.Popen

    def watch(command: list[str], **options: object) -> object:
        seen.extend([*command, *map(str, options["env"].items())])  # type: ignore[attr-defined]
        return real(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(softhsm_keys.subprocess, "Popen", watch)
    monkeypatch.setenv("SECRET_OF_SOMEBODY", "x")
    softhsm_keys._make_token(tmp_path, find_module())
    pin = (tmp_path / "pin").read_text().strip()
    assert seen
    assert not [word for word in seen if pin in word or "SECRET_OF_SOMEBODY" in word]


def test_a_token_without_its_pin_is_not_touched(tmp_path: Path) -> None:
    softhsm_keys._make_token(tmp_path, find_module())
    (tmp_path / "pin").unlink()
    with pytest.raises(PkiError, match=r"pin is missing; remove .* to make a new token"):
        softhsm_keys._make_token(tmp_path, find_module())


def test_a_token_that_can_not_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "softhsm2-util"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    home = tmp_path / "home"
    home.mkdir()
    with pytest.raises(PkiError, match="softhsm2-util could not make a token: it is broken"):
        softhsm_keys._make_token(home, Path("/nowhere.so"))
    assert list(home.iterdir()) == []


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softhsm_keys, "INIT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(softhsm_keys, "EXIT_TIMEOUT_S", 0.1)
    with pytest.raises(PkiError, match="it did not end in time"):
        softhsm_keys._run_with_answers([sys.executable, "-c", "import time; time.sleep(60)"], {}, [])


@pytest.mark.parametrize("character", ["#", "="])
def test_folders_that_softhsm_can_not_use_are_named(tmp_path: Path, character: str) -> None:
    home = tmp_path / f"a{character}b"
    home.mkdir()
    with pytest.raises(PkiError, match=r"can't use the folder .* its name holds"):
        softhsm_keys._make_token(home, find_module())


def test_a_missing_softhsm_is_one_sentence_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_MODULE", "/nowhere/lib.so")
    with pytest.raises(PkiError, match=r"SOFTHSM2_MODULE names /nowhere/lib\.so, which does not exist"):
        find_module()
    monkeypatch.delenv("SOFTHSM2_MODULE")
    monkeypatch.setattr(softhsm_keys, "MODULES", ())
    with pytest.raises(PkiError, match=r"SoftHSM2 is not installed .*apt-get install softhsm2"):
        find_module()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(PkiError, match=r"SoftHSM2 is not installed .*apt-get install softhsm2"):
        find_module()


def softhsm_spec(folder: Path, **change: Any) -> DevPkiSpec:
    types = (KeyType.P256, KeyType.P384, KeyType.RSA_2048)
    return replace(DevPkiSpec(folder / "p", ("localhost",), nodes=1, key_types=types), **change)


def test_a_whole_pki_has_its_site_keys_in_the_token(tmp_path: Path) -> None:
    first = create_dev_pki(softhsm_spec(tmp_path), softhsm_keys.softhsm_keys)
    assert "softhsm/tokens" in first.made
    for chain in first.sites["localhost"].values():
        command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(first.ca)]
        run = subprocess.run(
            [*command, "-untrusted", str(chain), str(chain)], capture_output=True, text=True, timeout=30
        )
        assert run.returncode == 0, run.stderr
    with softhsm_keys.softhsm_keys(first.folder) as token:
        assert not token.was_made
        records = {record.label: record for record in token.admin.list()}
    assert sorted(records) == ["localhost-ecdsa", "localhost-p384", "localhost-rsa"]
    assert not any(record.imported for record in records.values())
    private = [path for path in first.folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert sorted(path.name for path in private) == ["ca.key", "intermediate.key", "node-1.key", "proxy.key"]

    again = create_dev_pki(softhsm_spec(tmp_path), softhsm_keys.softhsm_keys)
    assert again.made == ()
    assert sorted(again.kept) == sorted(first.made)
    assert again.token == first.token

    in_vault = create_dev_pki(softhsm_spec(tmp_path))
    assert sorted(in_vault.made) == [
        "sites/localhost-ecdsa.pem",
        "sites/localhost-p384.pem",
        "sites/localhost-rsa.pem",
        "vault/store.db",
    ], "another token has other keys, so their certificates are new; authorities and identities stay"


def test_a_wrong_pin_is_a_sentence_that_names_the_folder(tmp_path: Path) -> None:
    with softhsm_keys.softhsm_keys(tmp_path):
        pass
    (tmp_path / "softhsm" / "pin").write_text("1234\n")
    with pytest.raises(PkiError, match=r"softhsm: the PIN is wrong"), softhsm_keys.softhsm_keys(tmp_path):
        pass


def test_what_the_token_refuses_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match="no key 'absent'"), softhsm_keys.softhsm_keys(tmp_path) as token:
        token.admin.get("absent")
