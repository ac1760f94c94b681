from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hsm.backends.vault import open_store
from hsm.cli import vault, vault_ways
from hsm.shared import hardening
from hsm.store import files
from hsm.store.collection import Collection, Taken
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import SharedSecret
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
        (("--shares", "2/3", "--wrapping-key", "pkcs11:x"), "not both"),
        (("--shares", "5"), "--shares takes M/N, such as 3/5"),
        (("--shares", "2/3x"), "--shares takes M/N, such as 3/5"),
        (("--shares", "1/3"), "1 of 3 shares can't be: at least 2 must be needed"),
        (("--shares", "4/3"), "4 of 3 shares can't be"),
        (("--shares", "2/33"), "at most 32 can be made"),
        (("--share-dir", "d"), "say how many with --shares M/N"),
    ],
)
def test_options_that_contradict_are_usage_errors(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", *options)
    assert status == 2
    assert words in " ".join(output.replace("│", " ").split())


def test_a_passphrase_is_not_read_from_a_pipe(tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", typed="hunter2\nhunter2\n")
    assert status == 1
    assert "can be typed at a terminal only" in output
    assert not (tmp_path / "s.db").exists()


def test_a_passphrase_that_is_typed_twice_opens_the_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_ways, "is_terminal", lambda: True)
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

    def create(*given: Any) -> Store:
        happened.append("created")
        return real(*given)

    monkeypatch.setattr(Store, "create", create)
    assert run("init", "--store", tmp_path / "s.db", "--key-file", tmp_path / "key", "--generate")[0] == 0
    assert happened == ["forbidden", "created"]


def split_shares(output: str) -> list[str]:
    """The shares that were printed, with their lines for people."""
    return [f"# Sealgate: share{part}" for part in output.split("# Sealgate: share")[1:]]


def open_by(store: Path, texts: list[str]) -> None:
    share_set = Store.peek(store).share_set
    assert share_set is not None
    collection = Collection(share_set)
    for text in texts:
        taken = collection.take_text(text.split("made  ")[0], 0)
        assert isinstance(taken, Taken), taken
    Store.open(store, SharedSecret(collection.secret(), share_set)).close()


def test_shares_are_printed_once_each_and_any_m_open_the_vault(tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", "--shares", "2/3")
    assert status == 0, output
    texts = split_shares(output)
    assert [text.split(",")[0] for text in texts] == [f"# Sealgate: share {number} of 3" for number in (1, 2, 3)]
    assert all("# Any 2 of the 3 open the vault." in text for text in texts)
    open_by(tmp_path / "s.db", texts[1:])
    assert os.listdir(tmp_path) == ["s.db"]


def test_shares_are_written_to_private_files(tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", "--shares", "3/4", "--share-dir", tmp_path / "shares")
    shares = tmp_path / "shares"
    assert (status, output) == (1, f"error: the folder {shares} does not exist; make it: mkdir -m 700 {shares}\n")
    (tmp_path / "shares").mkdir(mode=0o700)
    status, output = run("init", "--store", tmp_path / "s.db", "--shares", "3/4", "--share-dir", tmp_path / "shares")
    assert status == 0, output
    written = sorted((tmp_path / "shares").iterdir())
    assert len(written) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}
    assert all(f"made  {path}" in output for path in written)
    texts = [path.read_text() for path in written]
    assert not any(group in output for group in "".join(texts).split() if len(group) == 5 and group.isupper())
    open_by(tmp_path / "s.db", [texts[3], texts[0], texts[2]])


def test_a_vault_that_is_not_made_leaves_no_share_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: object) -> None:
        raise StoreError(StoreReason.FULL, "the disk is full")

    monkeypatch.setattr(Store, "create", fail)
    status, output = run("init", "--store", tmp_path / "s.db", "--shares", "2/3", "--share-dir", tmp_path)
    assert (status, output) == (1, "error: the disk is full\n")
    assert os.listdir(tmp_path) == []
    status, output = run("init", "--store", tmp_path / "s.db", "--shares", "2/3")
    assert status == 1
    assert output.endswith("these shares open nothing: destroy them\nerror: the disk is full\n")


def test_a_vault_says_what_opens_it(tmp_path: Path) -> None:
    run("init", "--store", tmp_path / "s.db", "--key-file", tmp_path / "key", "--generate")
    assert run("show", "--store", tmp_path / "s.db") == (0, f"{tmp_path}/s.db is opened by a key-file\n")
    status, output = run("show", "--store", tmp_path / "none.db")
    assert (status, output) == (1, f"error: {tmp_path}/none.db does not exist\n")


def test_what_opens_a_vault_can_be_changed_and_changed_back(tmp_path: Path) -> None:
    """From a key file to shares, to other shares because somebody left, and to a passphrase."""
    store, key, words = tmp_path / "s.db", tmp_path / "key", tmp_path / "words"
    files.create_private(words, b"hunter2hunter2")
    run("init", "--store", store, "--key-file", key, "--generate")
    status, output = run("rewrap", "--store", store, "--old-key-file", key, "--shares", "2/3", "--share-dir", tmp_path)
    assert status == 0, output
    assert "is now opened by 2 of 3 shares of set" in output
    assert "and no longer by a key-file" in output
    first = sorted(tmp_path.glob("share-*"))
    status, output = run("rewrap", "--store", store, "--old-key-file", key, "--key-file", key)
    assert (status, "is opened by shares, and a key-file was given" in output) == (1, True)
    old = [part for path in first[:2] for part in ("--old-share-file", path)]
    status, output = run("rewrap", "--store", store, *old, "--shares", "3/3")
    assert status == 0, output
    texts = split_shares(output)
    status, output = run("rewrap", "--store", store, *old, "--passphrase-file", words)
    assert status == 1
    assert "belongs to another vault, or to shares that were replaced" in output
    second = [tmp_path / f"new-{number}" for number in range(3)]
    for path, text in zip(second, texts, strict=True):
        files.create_private(path, text.split(str(store))[0].encode())
    old = [part for path in second for part in ("--old-share-file", path)]
    status, output = run("rewrap", "--store", store, *old[:4], "--passphrase-file", words)
    assert (status, "error: 1 more share is needed" in output) == (1, True)
    status, output = run("rewrap", "--store", store, *old, "--passphrase-file", words)
    assert status == 0, output
    open_store(store, passphrase_file=words).close()


def test_what_opens_it_now_must_be_named_or_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, key = tmp_path / "s.db", tmp_path / "key"
    run("init", "--store", store, "--key-file", key, "--generate")
    status, output = run("rewrap", "--store", store, "--shares", "2/2")
    assert (status, output) == (1, "error: the vault is opened by a key-file; name it with --old-key-file\n")
    monkeypatch.setattr(vault_ways, "is_terminal", lambda: True)
    status, output = run("rewrap", "--store", store, "--old-key-file", key, typed="hunter2\nhunter2\n")
    assert status == 0, output
    status, output = run("rewrap", "--store", store, "--key-file", key, typed="hunter3\n")
    assert (status, "the passphrase is wrong" in output) == (1, True)
    status, output = run("rewrap", "--store", store, "--key-file", key, typed="hunter2\n")
    assert status == 0, output
    assert "hunter" not in output
    status, output = run("rewrap", "--store", store, "--old-key-file", key, "--old-share-file", key)
    assert (status, "--old-key-file or --old-share-file, not both" in " ".join(output.split())) == (2, True)


def test_shares_of_the_present_vault_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "s.db"
    texts = split_shares(run("init", "--store", store, "--shares", "2/3")[1])
    typed = iter([texts[0], "AAAAA", texts[0], texts[2].split("made  ")[0]])
    monkeypatch.setattr(vault_ways, "is_terminal", lambda: True)
    monkeypatch.setattr(vault_ways, "read_hidden", lambda _question, _is_complete: next(typed))
    status, output = run("rewrap", "--store", store, "--key-file", tmp_path / "key", "--generate")
    assert status == 0, output
    assert "share 1 was given already" in output
    assert "look at the share and type it again" in output
    open_store(store, key_file=tmp_path / "key").close()


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("pkcs11:token=t?module-path=/none.so", "does not name the key; add `object=LABEL`"),
        ("pkcs11:object=k", "does not name the library; add `?module-path="),
        ("pkcs11:object=k?module-path=/none.so", "library /none.so does not exist"),
        ("pkcs11:object=k?pin-value=1234", "a PIN (`pin-value`) must not stand in a URI"),
        ("file:x", "a PKCS#11 URI begins with `pkcs11:`"),
    ],
)
def test_a_wrapping_key_that_can_not_be_is_one_sentence(uri: str, words: str, tmp_path: Path) -> None:
    status, output = run("init", "--store", tmp_path / "s.db", "--wrapping-key", uri)
    assert status == 1
    assert words in output
    assert "1234" not in output
    assert os.listdir(tmp_path) == []


def test_a_key_file_that_is_missing_is_made_by_an_option(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    status, output = run("init", "--store", tmp_path / "s.db", "--key-file", tmp_path / "k")
    assert (status, output) == (1, f"error: {tmp_path}/k does not exist; --generate makes it\n")
