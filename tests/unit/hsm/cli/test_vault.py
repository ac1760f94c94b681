from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hsm.backends.vault import open_store
from hsm.cli import vault
from hsm.shared import hardening
from hsm.store import files
from hsm.store.store import Store


def run(*arguments: str | Path, typed: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(vault.vault_app, [str(argument) for argument in arguments], input=typed)
    return result.exit_code, result.output


def test_a_vault_with_a_new_key_file_is_made(tmp_path: Path) -> None:
    store, key = tmp_path / "s.db", tmp_path / "key"
    status, output = run("init", "--store", store, "--key-file", key, "--generate")
    assert status == 0, output
    assert f"made  {store}" in output
    assert "without it the keys are lost" in output
    assert [stat.S_IMODE(path.stat().st_mode) for path in (store, key)] == [0o600, 0o600]
    open_store(store, key_file=key).close()


def test_a_vault_is_made_from_a_passphrase_file(tmp_path: Path) -> None:
    words = tmp_path / "words"
    files.create_private(words, b"hunter2hunter2\n")
    status, output = run("init", "--store", tmp_path / "s.db", "--passphrase-file", words)
    assert (status, output) == (0, f"made  {tmp_path}/s.db\n")
    assert "hunter2" not in output
    open_store(tmp_path / "s.db", passphrase_file=words).close()


def test_nothing_is_overwritten_or_left_behind(tmp_path: Path) -> None:
    store, key = tmp_path / "s.db", tmp_path / "key"
    assert run("init", "--store", store, "--key-file", key, "--generate")[0] == 0
    before = store.read_bytes()
    status, output = run("init", "--store", store, "--key-file", tmp_path / "key2", "--generate")
    assert (status, output) == (1, f"error: {store} exists already; a store is never overwritten\n")
    assert store.read_bytes() == before
    status, output = run("init", "--store", tmp_path / "t.db", "--key-file", key, "--generate")
    assert status == 1
    assert "key exists already; it is never overwritten" in output
    assert sorted(os.listdir(tmp_path)) == ["key", "s.db"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--passphrase-file", "a", "--key-file", "b"), "not both"),
        (("--generate",), "say where with --key-file"),
        (("--passphrase-file", "a", "--generate"), "say where with --key-file"),
    ],
)
def test_options_that_contradict_are_usage_errors(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", *options)
    assert status == 2
    assert words in " ".join(output.split())


def test_a_passphrase_is_not_read_from_a_pipe(tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", typed="hunter2\nhunter2\n")
    assert status == 1
    assert "can be typed at a terminal only" in output
    assert not (tmp_path / "s.db").exists()


def test_a_passphrase_that_is_typed_twice_opens_the_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault, "_is_terminal", lambda: True)
    status, output = run("init", "--store", tmp_path / "s.db", typed="hunter2\nhunter2\n")
    assert status == 0, output
    assert "hunter2" not in output
    words = tmp_path / "words"
    files.create_private(words, b"hunter2")
    open_store(tmp_path / "s.db", passphrase_file=words).close()


def test_unsafe_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)
    status, output = run("init", "--store", tmp_path / "s.db", "--key-file", key)
    assert status == 1
    assert f"run: chmod 600 {key}" in output
    status, output = run("init", "--store", tmp_path / "none" / "s.db", "--key-file", tmp_path / "k2", "--generate")
    assert status == 1
    assert "none does not exist" in output
    assert not (tmp_path / "k2").exists()


def test_paths_that_can_not_be_are_refused_in_a_sentence(tmp_path: Path) -> None:
    key = tmp_path / "key"
    files.create_private(key, b"k" * 32)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for store, words in (
        (tmp_path / ("a" * 300), "File name too long"),
        (tmp_path / ("a" * 300) / "s.db", "File name too long"),
        (tmp_path / ("a" * 250), "File name too long"),
        (tmp_path / "dangling", "exists already; a store is never overwritten"),
    ):
        status, output = run("init", "--store", store, "--key-file", key)
        assert status == 1, output
        assert output.startswith("error: ")
        assert words in output
    assert sorted(os.listdir(tmp_path)) == ["dangling", "key"]


def test_a_crash_would_leave_no_core_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    real = Store.create
    monkeypatch.setattr(hardening, "_forbid_core_files", lambda: happened.append("forbidden"))
    monkeypatch.setattr(Store, "create", lambda *given: happened.append("created") or real(*given))
    assert run("init", "--store", tmp_path / "s.db", "--key-file", tmp_path / "key", "--generate")[0] == 0
    assert happened == ["forbidden", "created"]
