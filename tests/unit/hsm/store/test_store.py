from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsm.shared.logs import Secret
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import Argon2Cost, KeyFile, Passphrase
from hsm.store.store import MAX_VALUE_BYTES, Change, Delete, Put, Store


def altered(path: Path, *statements: str) -> None:
    """What somebody with the file, but without the master key, can do."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def values(store: Store) -> dict[str, bytes]:
    return {record.path: record.value for record in store.scan("keys/").records}


@pytest.fixture
def other(store: Store, store_path: Path, unlock: KeyFile) -> Iterator[Store]:
    """The same store, opened a second time."""
    opened = Store.open(store_path, unlock, busy_timeout_s=0.2)
    yield opened
    opened.close()


def test_records_are_written_read_and_deleted(store: Store) -> None:
    assert store.write([Put("keys/a", b"1", 0), Put("labels/x", b"a", 0)]) == 1
    assert (store.get("keys/a").value, store.get("keys/a").version) == (b"1", 1)
    assert store.write([Put("keys/a", b"2", 1)]) == 2
    assert (store.get("keys/a").value, store.get("keys/a").version) == (b"2", 2)
    assert values(store) == {"keys/a": b"2"}
    store.write([Delete("keys/a", 2)])
    assert values(store) == {}
    with pytest.raises(StoreError, match="there is no record 'keys/a'"):
        store.get("keys/a")
    store.write([Put("keys/a", b"3", 0)])
    assert store.get("keys/a").version == 4, "versions go on through a deletion"
    assert store.revision() == 4


def test_writes_made_for_another_version_are_refused_whole(store: Store, other: Store) -> None:
    store.write([Put("keys/a", b"1", 0)])
    other.write([Put("keys/a", b"2", 1)])
    attempts: tuple[tuple[list[Change], StoreReason], ...] = (
        ([Put("keys/b", b"x", 0), Put("keys/a", b"3", 1)], StoreReason.CONFLICT),
        ([Put("keys/b", b"x", 0), Delete("keys/a", 1)], StoreReason.CONFLICT),
        ([Put("keys/b", b"x", 0), Put("keys/a", b"3", 0)], StoreReason.EXISTS),
        ([Put("keys/b", b"x", 0), Delete("keys/none", 1)], StoreReason.CONFLICT),
    )
    for changes, reason in attempts:
        with pytest.raises(StoreError) as caught:
            store.write(changes)
        assert caught.value.reason is reason
        assert caught.value.record in ("keys/a", "keys/none")
    assert values(store) == {"keys/a": b"2"}
    assert store.revision() == 2


def test_a_change_is_seen_by_everybody_who_shares_the_file(store: Store, other: Store) -> None:
    seen, own = other.scan("keys/"), store.scan("keys/")
    assert not other.has_changed(seen.state)
    store.write([Put("keys/a", b"1", 0)])
    assert other.has_changed(seen.state)
    assert store.has_changed(own.state), "also by the writer itself"
    seen = other.scan("keys/")
    assert [record.value for record in seen.records] == [b"1"]
    assert not other.has_changed(seen.state)


def test_another_process_sees_what_was_written_and_writes(store: Store, store_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from hsm.shared.logs import Secret\n"
        "from hsm.store.master_key import KeyFile; from hsm.store.store import Put, Store\n"
        "s = Store.open(Path(sys.argv[1]), KeyFile(Secret(b'k' * 32)))\n"
        "s.write([Put('keys/b', s.get('keys/a').value + b'!', 0)])\n"
    )
    store.write([Put("keys/a", b"hello", 0)])
    before = store.scan("keys/")
    subprocess.run([sys.executable, "-c", program, str(store_path)], check=True, timeout=60)
    assert store.has_changed(before.state)
    assert values(store) == {"keys/a": b"hello", "keys/b": b"hello!"}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET value = zeroblob(length(value)) WHERE path = 'keys/a'",
        "UPDATE records SET value = x'' WHERE path = 'keys/a'",
        "UPDATE records SET nonce = randomblob(12) WHERE path = 'keys/a'",
        "UPDATE records SET nonce = x'' WHERE path = 'keys/a'",
        "UPDATE records SET version = 1 WHERE path = 'keys/a'",
        "UPDATE records SET version = -1 WHERE path = 'keys/a'",
        "UPDATE records SET revision = 1 WHERE path = 'keys/a'",
        "UPDATE records SET revision = 99 WHERE path = 'keys/a'",
        "UPDATE records SET live = 0 WHERE path = 'keys/a'",
        "UPDATE records SET (nonce, value) = (SELECT nonce, value FROM records WHERE path = 'keys/b') "
        "WHERE path = 'keys/a'",
    ],
)
def test_a_row_that_was_tampered_with_is_named_and_the_others_work(
    statement: str, store: Store, store_path: Path
) -> None:
    store.write([Put("keys/b", b"good", 0)])
    store.write([Put("keys/a", b"1", 0)])
    store.write([Put("keys/a", b"2", 1)])
    seen = store.scan("keys/")
    altered(store_path, statement)
    assert store.has_changed(seen.state)
    scan = store.scan("keys/")
    assert [error.record for error in scan.damaged] == ["keys/a"]
    assert scan.damaged[0].reason is StoreReason.TAMPERED
    assert "'keys/a'" in str(scan.damaged[0])
    assert [record.value for record in scan.records] == [b"good"]
    assert store.get("keys/b").value == b"good"
    with pytest.raises(StoreError, match="record 'keys/a' was altered"):
        store.get("keys/a")
    with pytest.raises(StoreError):
        store.write([Put("keys/a", b"3", 2), Put("keys/c", b"x", 0)])
    assert "keys/c" not in values(store)


@pytest.mark.parametrize("path", ["keys/z", "labels/a", "keys/" + "0" * 200])
def test_a_row_that_was_moved_is_refused(path: str, store: Store, store_path: Path) -> None:
    store.write([Put("keys/a", b"1", 0)])
    altered(store_path, f"UPDATE records SET path = '{path}'")
    with pytest.raises(StoreError, match=f"record '{path}' was altered, moved"):
        store.get(path)


def test_a_path_that_is_no_text_fails_alone(store: Store, store_path: Path) -> None:
    store.write([Put("keys/a", b"1", 0), Put("keys/b", b"2", 0)])
    altered(store_path, "UPDATE records SET path = CAST(x'6b6579732fff' AS TEXT) WHERE path = 'keys/a'")
    scan = store.scan("keys/")
    assert [record.path for record in scan.records] == ["keys/b"]
    assert len(scan.damaged) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE header SET revision = 0",
        "UPDATE header SET revision = -1",
        "UPDATE header SET total = zeroblob(32)",
        "UPDATE header SET total = zeroblob(33)",
        "UPDATE header SET total = x''",
        "UPDATE header SET seal = zeroblob(32)",
        "UPDATE header SET seal = x''",
        "DELETE FROM header",
    ],
)
def test_a_header_that_was_altered_is_noticed_and_not_built_upon(
    statement: str, store: Store, store_path: Path
) -> None:
    store.write([Put("keys/a", b"1", 0)])
    altered(store_path, statement)
    scan = store.scan("keys/")
    assert [record.value for record in scan.records] == [b"1"]
    assert ["removed or older ones put back" in str(error) for error in scan.damaged] == [True]
    with pytest.raises(StoreError, match="removed or older ones put back"):
        store.write([Put("keys/b", b"1", 0)])


def test_a_deleted_record_can_not_be_put_back_unnoticed(store: Store, store_path: Path) -> None:
    store.write([Put("keys/a", b"1", 0), Put("keys/b", b"2", 0)])
    with closing(sqlite3.connect(store_path)) as thief:
        row = thief.execute("SELECT * FROM records WHERE path = 'keys/a'").fetchone()
    store.write([Delete("keys/a", 1)])
    with closing(sqlite3.connect(store_path)) as thief, thief:
        thief.execute("REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
    (error,) = store.scan("keys/").damaged
    assert (error.reason, error.record) == (StoreReason.TAMPERED, "")
    assert "older ones put back" in str(error)
    store.write([Put("keys/c", b"3", 0), Put("keys/a", b"4", 1)])
    assert len(store.scan("keys/").damaged) == 1, "writing on does not hide it"


@pytest.mark.parametrize("path", ["keys/a", "labels/a"])
def test_a_row_that_was_removed_is_noticed(path: str, store: Store, store_path: Path) -> None:
    store.write([Put("keys/a", b"1", 0), Put("keys/b", b"2", 0), Put("labels/a", b"", 0)])
    altered(store_path, f"DELETE FROM records WHERE path = '{path}'")
    scan = store.scan("keys/")
    assert "removed" in str(scan.damaged[0])
    assert scan.records[-1].value == b"2"


def test_a_wrong_passphrase_is_a_clear_error(store_path: Path) -> None:
    cheap = Argon2Cost(64, 1, 1)
    Store.create(store_path, Passphrase(Secret(b"right"), cheap)).close()
    with pytest.raises(StoreError, match=r"store\.db: the passphrase is wrong") as caught:
        Store.open(store_path, Passphrase(Secret(b"wrong")))
    assert caught.value.reason is StoreReason.WRONG_KEY
    Store.open(store_path, Passphrase(Secret(b"right"))).close()


def test_values_are_nowhere_in_the_files(store: Store, tmp_path: Path) -> None:
    store.write([Put("keys/a", b"a value that would be found", 0)])
    for path in tmp_path.iterdir():
        assert b"that would be found" not in path.read_bytes()
    assert "found" not in repr(store.get("keys/a"))
    assert "found" not in repr(Put("keys/a", b"found", 0))


def test_a_deleted_value_leaves_the_files(store: Store, tmp_path: Path) -> None:
    store.write([Put("keys/a", b"x" * 600, 0)])
    sealed = store._connection.execute("SELECT value FROM records").fetchone()[0]
    assert any(sealed in path.read_bytes() for path in tmp_path.iterdir())
    store.write([Delete("keys/a", 1)])
    assert not any(sealed in path.read_bytes() for path in tmp_path.iterdir())


def test_a_full_disk_changes_nothing(store: Store) -> None:
    store.write([Put("keys/a", b"1", 0)])
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StoreError, match="the disk is full") as caught:
        store.write([Put("keys/a", b"2", 1), Put("keys/big", b"x" * 100_000, 0)])
    assert caught.value.reason is StoreReason.FULL
    assert values(store) == {"keys/a": b"1"}
    store._connection.execute("PRAGMA max_page_count=1000000")
    assert store.write([Put("keys/a", b"2", 1)]) == 2


def test_a_locked_store_is_a_clear_error_and_readers_go_on(store: Store, store_path: Path) -> None:
    store.write([Put("keys/a", b"1", 0)])
    with closing(sqlite3.connect(store_path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="is locked by another program") as caught:
            store.write([Put("keys/a", b"2", 1)])
        assert caught.value.reason is StoreReason.LOCKED
        assert values(store) == {"keys/a": b"1"}
        locker.execute("ROLLBACK")
    assert store.write([Put("keys/a", b"2", 1)]) == 2


def test_a_read_only_store_is_a_clear_error(store: Store) -> None:
    store._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreError, match="can't be written") as caught:
        store.write([Put("keys/a", b"1", 0)])
    assert caught.value.reason is StoreReason.READ_ONLY


def test_a_file_that_was_replaced_is_noticed(store: Store, store_path: Path) -> None:
    seen = store.scan("keys/")
    store_path.rename(store_path.with_suffix(".old"))
    with pytest.raises(StoreError, match="was removed or replaced while it was open"):
        store.has_changed(seen.state)
    store_path.touch()
    with pytest.raises(StoreError, match="was removed or replaced") as caught:
        store.write([Put("keys/a", b"1", 0)])
    assert caught.value.reason is StoreReason.REPLACED


@pytest.mark.parametrize(
    "path", ["", "keys", "keys/", "/keys/a", "keys//a", "keys/..", "Keys/a", "keys/" + "a" * 300, "keys/a\n"]
)
def test_paths_that_are_none_are_refused(path: str, store: Store) -> None:
    with pytest.raises(StoreError, match="is not a record path"):
        store.write([Put(path, b"", 0)])


def test_values_and_prefixes_have_bounds(store: Store) -> None:
    store.write([Put("keys/a", b"x" * MAX_VALUE_BYTES, 0)])
    with pytest.raises(StoreError, match="is larger than"):
        store.write([Put("keys/b", b"x" * (MAX_VALUE_BYTES + 1), 0)])
    for prefix in ("", "keys", "keys/a", "/"):
        with pytest.raises(StoreError, match="is not a prefix"):
            store.scan(prefix)


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.get("keys/a")


def test_threads_share_a_store(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                store.write([Put(f"keys/{number}-{step}", b"x", 0)])
                store.scan("keys/")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(values(store)) == 40


names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(names, st.lists(st.one_of(st.none(), st.binary(max_size=300)), min_size=1, max_size=4), max_size=5)
)
def test_the_last_write_of_each_record_is_what_is_read(
    store: Store, other: Store, histories: dict[str, list[bytes | None]]
) -> None:
    for record in store.scan("keys/").records:
        store.write([Delete(record.path, record.version)])
    expected: dict[str, bytes] = {}
    for name, history in histories.items():
        path = f"keys/{name}"
        for value in history:
            version = other.get(path).version if path in expected else 0
            if value is not None:
                store.write([Put(path, value, version)])
                expected[path] = value
            elif version:
                other.write([Delete(path, version)])
                del expected[path]
    assert values(other) == values(store) == expected


WRITER = """
import sys
from pathlib import Path
from hsm.shared.logs import Secret
from hsm.store.master_key import KeyFile
from hsm.store.store import Put, Store
store = Store.open(Path(sys.argv[1]), KeyFile(Secret(b"k" * 32)))
number = int(sys.argv[2])
while True:
    store.write([Put(f"keys/{number}", b"v%d" % number, 0), Put(f"labels/{number}", b"%d" % number, 0)])
    print(number, flush=True)
    number += 1
"""


def test_what_was_acknowledged_survives_kill_9(store: Store, store_path: Path, unlock: KeyFile) -> None:
    acknowledged: list[int] = []
    number = 0
    for lines in (1, 7, 23, 40):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer.stdout:
            for _ in range(lines):
                acknowledged.append(int(writer.stdout.readline()))
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().splitlines() if line]
        writer.wait(30)
        with closing(Store.open(store_path, unlock)) as reopened:
            keys = reopened.scan("keys/")
            labels = reopened.scan("labels/")
        assert keys.damaged == ()
        found = {int(record.value[1:]) for record in keys.records}
        assert found >= set(acknowledged)
        assert {int(record.value) for record in labels.records} == found, "transactions are whole"
        number = max(found) + 1
