from __future__ import annotations

import base64
import hmac
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hsm.shared.logs import Secret
from hsm.store import database, master_key
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import Argon2Cost, KeyFile, Passphrase, SharedSecret, TokenKey, Unlock
from hsm.store.rewrapping import rewrap
from hsm.store.shares import deal
from hsm.store.store import Put, Store

MADE = deal(2, 3)
WAYS: list[Unlock] = [
    Passphrase(Secret(b"hunter2"), Argon2Cost(64, 1, 1)),
    KeyFile(Secret(b"n" * 32)),
    SharedSecret(Secret(bytes(MADE.secret.reveal())), MADE.share_set),
    TokenKey("wrap", lambda data: hmac.digest(b"t" * 32, data, "sha256")),
]


def format_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as other:
        return int(other.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("way", WAYS, ids=["passphrase", "key-file", "shares", "token"])
def test_the_new_way_opens_and_the_old_one_does_not(
    way: Unlock, store: Store, store_path: Path, unlock: KeyFile
) -> None:
    store.write([Put("keys/a", b"kept", 0)])
    store.close()
    rewrap(store_path, unlock, way)
    with pytest.raises(StoreError) as caught:
        Store.open(store_path, unlock)
    assert caught.value.reason is StoreReason.WRONG_KEY
    opened = Store.open(store_path, way)
    assert opened.get("keys/a").value == b"kept"
    opened.write([Put("keys/b", b"more", 0)])
    opened.close()
    is_newer = way in WAYS[2:]
    assert format_of(store_path) == (database.NEWER_FORMAT if is_newer else database.FORMAT)
    rewrap(store_path, way, unlock)  # and back
    assert format_of(store_path) == database.FORMAT
    back = Store.open(store_path, unlock)
    assert [record.value for record in back.scan("keys/").records] == [b"kept", b"more"]
    back.close()


def test_the_old_wrapping_leaves_the_disk(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    old = Store.peek(store_path).wrapped
    assert any(found_in(old, store_path))
    rewrap(store_path, unlock, WAYS[1])
    assert not any(found_in(old, store_path))


def found_in(wrapped: bytes, path: Path) -> list[bool]:
    return [base64.b64encode(wrapped) in file.read_bytes() for file in path.parent.glob(path.name + "*")]


def test_who_can_not_open_it_changes_nothing(store: Store, store_path: Path) -> None:
    store.close()
    before = Store.peek(store_path)
    with pytest.raises(StoreError, match=r"store\.db: the key file is not this store's"):
        rewrap(store_path, KeyFile(Secret(b"x" * 32)), WAYS[0])
    assert Store.peek(store_path) == before


def test_a_node_that_has_it_open_goes_on(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.write([Put("keys/a", b"1", 0)])
    rewrap(store_path, unlock, WAYS[1])
    store.write([Put("keys/b", b"2", 0)])
    assert store.get("keys/a").value == b"1"
    assert not store.scan("keys/").damaged


def test_of_two_who_change_it_at_once_one_is_refused(
    store: Store, store_path: Path, unlock: KeyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    real = master_key.wrap
    is_first = True

    def wrap_after_somebody_else(*given: object) -> object:
        nonlocal is_first
        if is_first:
            is_first = False
            rewrap(store_path, unlock, WAYS[1])
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(master_key, "wrap", wrap_after_somebody_else)
    with pytest.raises(StoreError, match="somebody else changed how") as caught:
        rewrap(store_path, unlock, WAYS[0])
    assert caught.value.reason is StoreReason.CONFLICT
    Store.open(store_path, WAYS[1]).close()


def test_a_way_that_does_not_open_it_again_is_not_taken(store: Store, store_path: Path, unlock: KeyFile) -> None:
    """A token that answers differently each time would lock its owner out."""
    store.close()
    fickle = TokenKey("wrap", lambda _data: os.urandom(32))
    with pytest.raises(StoreError, match="wrapping key is not the one"):
        rewrap(store_path, unlock, fickle)
    Store.open(store_path, unlock).close()


KILLED = """
import os, sys
from pathlib import Path
from hsm.shared.logs import Secret
from hsm.store import database, rewrapping
from hsm.store.master_key import KeyFile
real = database.write_master_key
def write_and_die(connection, wrapped):
    real(connection, wrapped)
    os._exit(9)
database.write_master_key = write_and_die
rewrapping.rewrap(Path(sys.argv[1]), KeyFile(Secret(b"k" * 32)), KeyFile(Secret(b"n" * 32)))
"""


def test_a_crash_in_the_middle_changes_nothing(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    assert subprocess.run([sys.executable, "-c", KILLED, store_path], timeout=60, check=False).returncode == 9
    Store.open(store_path, unlock).close()


def test_a_store_says_what_opens_it(store: Store, store_path: Path, unlock: KeyFile) -> None:
    store.close()
    assert Store.peek(store_path).opened_by == "a key-file"
    rewrap(store_path, unlock, WAYS[2])
    assert Store.peek(store_path).opened_by == f"2 of 3 shares of set {MADE.share_set.name}"
    with pytest.raises(StoreError, match="does not exist"):
        Store.peek(store_path.with_name("none.db"))


@pytest.mark.parametrize(
    "change",
    [
        """json_set(master_key, '$.share_set.threshold', 1)""",
        """json_set(master_key, '$.share_set.commitments[0]', 'AAAA')""",
        """json_remove(master_key, '$.share_set')""",
        """json_set(master_key, '$.unlock', 'key-file')""",
    ],
)
def test_shares_that_nobody_made_are_an_altered_header(
    change: str, store: Store, store_path: Path, unlock: KeyFile
) -> None:
    store.close()
    rewrap(store_path, unlock, WAYS[2])
    with closing(sqlite3.connect(store_path, isolation_level=None)) as other:
        text = change.replace("master_key", "CAST(master_key AS TEXT)")
        other.execute(f"UPDATE header SET master_key = CAST({text} AS BLOB)")
    with pytest.raises(StoreError, match="the store's header was altered") as caught:
        Store.peek(store_path)
    assert caught.value.reason is StoreReason.TAMPERED
