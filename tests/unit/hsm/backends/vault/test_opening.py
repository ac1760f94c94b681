from __future__ import annotations

from pathlib import Path

import pytest

from hsm.backends.vault import VaultError, VaultReason, create_store, open_store
from hsm.backends.vault.opening import open_store_with, share_set_of
from hsm.store import files
from hsm.store.master_key import SharedSecret, create_key_file
from hsm.store.shares import deal
from hsm.store.store import Store


def test_a_key_file_or_a_passphrase_file_opens_a_vault(tmp_path: Path) -> None:
    key, words = tmp_path / "key", tmp_path / "words"
    create_key_file(key)
    files.create_private(words, b"correct horse battery staple\n")
    create_store(tmp_path / "a.db", key_file=key).close()
    open_store(tmp_path / "a.db", key_file=key).close()
    create_store(tmp_path / "b.db", passphrase_file=words).close()
    open_store(tmp_path / "b.db", passphrase_file=words).close()
    with pytest.raises(VaultError, match="opened by a key-file, and a passphrase was given"):
        open_store(tmp_path / "a.db", passphrase_file=words)
    words.write_bytes(b"wrong")
    with pytest.raises(VaultError, match=r"b\.db: the passphrase is wrong") as caught:
        open_store(tmp_path / "b.db", passphrase_file=words)
    assert caught.value.reason is VaultReason.UNAVAILABLE


def test_exactly_one_file_is_given(tmp_path: Path) -> None:
    for wrong in ({}, {"passphrase_file": tmp_path / "a", "key_file": tmp_path / "b"}):
        with pytest.raises(VaultError, match="either a passphrase file or a key file"):
            open_store(tmp_path / "s.db", **wrong)


def test_unsafe_and_missing_files_are_named(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(VaultError, match="key does not exist"):
        create_store(tmp_path / "s.db", key_file=key)
    create_key_file(key)
    key.chmod(0o644)
    with pytest.raises(VaultError, match="chmod 600"):
        create_store(tmp_path / "s.db", key_file=key)
    assert not (tmp_path / "s.db").exists()


def test_what_opened_a_vault_is_wiped(tmp_path: Path) -> None:
    unlock = create_key_file(tmp_path / "key")
    create_store(tmp_path / "s.db", key_file=tmp_path / "key").close()
    open_store_with(tmp_path / "s.db", unlock).close()
    assert unlock.key.reveal() == bytearray(32)
    with pytest.raises(VaultError, match="the key file is not this store's"):
        open_store_with(tmp_path / "s.db", unlock)


def test_shares_are_asked_of_the_store(tmp_path: Path) -> None:
    made = deal(2, 3)
    Store.create(tmp_path / "s.db", SharedSecret(made.secret, made.share_set)).close()
    assert share_set_of(tmp_path / "s.db") == made.share_set
    create_key_file(tmp_path / "key")
    create_store(tmp_path / "k.db", key_file=tmp_path / "key").close()
    with pytest.raises(VaultError, match=r"k\.db is not opened by shares but by a key-file") as caught:
        share_set_of(tmp_path / "k.db")
    assert caught.value.reason is VaultReason.INVALID
