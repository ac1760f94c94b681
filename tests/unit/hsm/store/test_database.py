from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from hsm.store import database
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import KeyFile
from hsm.store.store import Put, Store


def test_all_files_of_a_store_are_private(store: Store, tmp_path: Path) -> None:
    store.write([Put("keys/a", b"value", 0)])
    names = sorted(os.listdir(tmp_path))
    assert names == ["store.db", "store.db-shm", "store.db-wal"]
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in names} == {0o600}


def test_settings_are_the_durable_ones(store: Store) -> None:
    def setting(name: str) -> object:
        return store._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert setting("journal_mode") == "wal"
    assert setting("synchronous") == 2
    assert setting("secure_delete") == 1
    assert setting("application_id") == database.APPLICATION_ID
    assert setting("user_version") == database.FORMAT


def test_an_existing_file_is_never_overwritten(store: Store, store_path: Path, unlock: KeyFile) -> None:
    with pytest.raises(StoreError, match="a store is never overwritten") as caught:
        Store.create(store_path, unlock)
    assert caught.value.reason is StoreReason.EXISTS


def test_a_store_that_could_not_be_made_leaves_nothing(
    tmp_path: Path, unlock: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SCHEMA", "CREATE NONSENSE;")
    with pytest.raises(StoreError, match=r"/s\.db gave an unexpected error"):
        Store.create(tmp_path / "s.db", unlock)
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_store_is_refused(tmp_path: Path, unlock: KeyFile) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(StoreError, match=r"s\.db does not exist"):
        Store.open(path, unlock)
    path.touch(mode=0o600)
    with pytest.raises(StoreError, match="is not a Sealgate store"):
        Store.open(path, unlock)
    path.write_bytes(b"text" * 1000)
    with pytest.raises(StoreError, match="is not a Sealgate store") as caught:
        Store.open(path, unlock)
    assert caught.value.reason is StoreReason.NOT_A_STORE
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (x)")
    path.chmod(0o600)
    with pytest.raises(StoreError, match="is not a Sealgate store; check the path"):
        Store.open(path, unlock)


def test_a_newer_format_is_refused(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    with closing(sqlite3.connect(store_path)) as other:
        other.execute("PRAGMA user_version=3")
    with pytest.raises(StoreError, match="has store format 3, and this program knows formats 1 and 2") as caught:
        Store.open(store_path, unlock)
    assert caught.value.reason is StoreReason.TOO_NEW


@pytest.mark.parametrize("target", ["file", "folder"])
def test_a_store_that_others_may_touch_is_refused(target: str, store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    if target == "file":
        store_path.chmod(0o640)
    else:
        store_path.parent.chmod(0o770)
    with pytest.raises(StoreError, match="run: chmod") as caught:
        Store.open(store_path, unlock)
    assert caught.value.reason is StoreReason.UNSAFE_FILE


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM header",
        "UPDATE header SET cluster_id = x'00'",
        "UPDATE header SET master_key = x'00'",
        "UPDATE header SET master_key = '{}'",
        "UPDATE header SET cluster_id = randomblob(16)",
    ],
)
def test_an_altered_header_is_refused(statement: str, store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    with closing(sqlite3.connect(store_path, isolation_level=None)) as other:
        try:
            other.execute(statement)
        except sqlite3.IntegrityError:
            other.execute("UPDATE header SET master_key = CAST('{}' AS BLOB)")
    with pytest.raises(StoreError, match="header was altered") as caught:
        Store.open(store_path, unlock)
    assert caught.value.reason in (StoreReason.TAMPERED, StoreReason.WRONG_KEY)
    assert str(store_path) in str(caught.value)


def test_a_damaged_page_is_an_error_and_not_a_crash(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.write([Put(f"keys/{number}", b"v" * 1000, 0) for number in range(50)])
    store.close()
    data = bytearray(store_path.read_bytes())
    data[8192:] = b"\xff" * (len(data) - 8192)
    store_path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="damaged") as caught:
        Store.open(store_path, unlock).scan("keys/")
    assert caught.value.reason is StoreReason.DAMAGED
