from __future__ import annotations

from pathlib import Path

import pytest

from hsm.backends.vault import VaultError, VaultReason, create_store, open_store
from hsm.store import files
from hsm.store.master_key import create_key_file


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
