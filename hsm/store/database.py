"""The store's SQLite file: its schema, its settings and its safe creation. Knows rows, not what is in them.

The file is not trusted for content: everything read from it is checked by whoever opens a value.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hsm.store import files
from hsm.store.errors import StoreError, StoreReason, from_sqlite
from hsm.store.master_key import WrappedKey
from hsm.store.sealing import Place, SealedRecord
from hsm.store.tally import Tally

APPLICATION_ID = 0x5EA16A7E
FORMAT = 1
"""What most stores have."""
NEWER_FORMAT = 2
"""What stores have whose header an older program would not understand: opened by shares, or by a key in a token."""
CLUSTER_ID_BYTES = 16

_SCHEMA = """
CREATE TABLE header (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    cluster_id BLOB NOT NULL,
    master_key BLOB NOT NULL,
    revision INTEGER NOT NULL,
    total BLOB NOT NULL,
    seal BLOB NOT NULL
) STRICT;
CREATE TABLE records (
    path TEXT PRIMARY KEY,
    version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    live INTEGER NOT NULL,
    nonce BLOB NOT NULL,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = "path, version, revision, live, nonce, value"
_SETTINGS = (
    "PRAGMA synchronous=FULL",
    "PRAGMA secure_delete=ON",
    "PRAGMA temp_store=MEMORY",
    "PRAGMA trusted_schema=OFF",
    "PRAGMA cell_size_check=ON",
)


def create(path: Path, cluster_id: bytes, wrapped: WrappedKey, tally: Tally) -> None:
    """Make a new store file of mode 0600, whole or not at all. Raises StoreError; never overwrites."""
    folder = path.parent
    files.check_private_folder(folder)
    if os.path.lexists(path):
        raise StoreError(StoreReason.EXISTS, f"{path} exists already; a store is never overwritten")
    draft = folder / f".{path.name}.{os.urandom(8).hex()}"
    try:
        files.create_private(draft, b"")
        _fill(draft, cluster_id, wrapped, tally)
        os.link(draft, path)  # unlike a rename it fails where somebody was faster
        files.sync_folder(folder)
    except StoreError as error:
        # Nobody knows the draft's name.
        raise StoreError(error.reason, error.sentence.replace(str(draft), str(path))) from None
    except FileExistsError:
        raise StoreError(StoreReason.EXISTS, f"{path} exists already; a store is never overwritten") from None
    except OSError as error:
        raise StoreError(StoreReason.READ_ONLY, f"{path} can't be created: {error.strerror}") from None
    finally:
        for leftover in (draft, *(folder / f"{draft.name}{end}" for end in ("-wal", "-shm", "-journal"))):
            with contextlib.suppress(OSError):
                leftover.unlink()


def _fill(path: Path, cluster_id: bytes, wrapped: WrappedKey, tally: Tally) -> None:
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={format_of(wrapped)}")
            connection.executescript(_SCHEMA)
            row = (cluster_id, msgspec.json.encode(wrapped), tally.revision, tally.total, tally.seal)
            connection.execute("INSERT INTO header VALUES (1, ?, ?, ?, ?, ?)", row)
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        raise from_sqlite(path, error) from None


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open an existing store file with our settings, after its mode, folder and kind were checked."""
    files.check_private_folder(path.parent)
    files.check_private_file(path)
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise from_sqlite(path, error) from None
    try:
        # A row whose text is not UTF-8 was altered; it must fail alone, by its name.
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        _check_kind(path, connection)
        for setting in _SETTINGS:
            connection.execute(setting)
    except sqlite3.Error as error:
        connection.close()
        raise from_sqlite(path, error) from None
    except StoreError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def opened(path: Path, busy_timeout_s: float) -> Iterator[tuple[sqlite3.Connection, bytes, WrappedKey]]:
    """A connection, the cluster id and the wrapped master key. Whatever is raised inside closes the connection, which
    else stays open; errors of the store say which file they are about."""
    connection = connect(path, busy_timeout_s)
    try:
        yield connection, *read_header(path, connection)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise from_sqlite(path, error) from None
        if isinstance(error, StoreError):
            prefix = "" if str(path) in error.sentence else f"{path}: "
            raise StoreError(error.reason, prefix + error.sentence, record=error.record) from None
        raise


def _check_kind(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(StoreReason.NOT_A_STORE, f"{path} is not a Sealgate store; check the path")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (FORMAT, NEWER_FORMAT):
        known = f"formats {FORMAT} and {NEWER_FORMAT}"
        sentence = f"{path} has store format {version}, and this program knows {known}; use a matching version"
        raise StoreError(StoreReason.TOO_NEW, sentence)


def read_header(path: Path, connection: sqlite3.Connection) -> tuple[bytes, WrappedKey]:
    """The cluster id and the wrapped master key. Raises StoreError."""
    row = connection.execute("SELECT cluster_id, master_key FROM header WHERE id = 1").fetchone()
    try:
        cluster_id, encoded = row
        if len(cluster_id) != CLUSTER_ID_BYTES:
            raise ValueError
        wrapped = msgspec.json.decode(encoded, type=WrappedKey)
        if (wrapped.unlock == "shares") != (wrapped.share_set is not None and wrapped.share_set.is_sane()):
            raise ValueError
        return cluster_id, wrapped
    except (TypeError, ValueError, msgspec.DecodeError):
        raise StoreError(StoreReason.TAMPERED, f"{path}: the store's header was altered; restore a backup") from None


def format_of(wrapped: WrappedKey) -> int:
    """The store format that a header needs."""
    return NEWER_FORMAT if wrapped.needs_newer_format else FORMAT


def write_master_key(connection: sqlite3.Connection, wrapped: WrappedKey) -> None:
    """Put another wrapping of the master key into the header, and the format that goes with it."""
    connection.execute("UPDATE header SET master_key = ? WHERE id = 1", (msgspec.json.encode(wrapped),))
    connection.execute(f"PRAGMA user_version={format_of(wrapped)}")


def read_revision(connection: sqlite3.Connection) -> int:
    """The store-wide revision."""
    row = connection.execute("SELECT revision FROM header WHERE id = 1").fetchone()
    return int(row[0]) if row else 0


def read_tally(connection: sqlite3.Connection) -> Tally | None:
    """What the header says about the rows, unchecked; None where the header is gone."""
    row = connection.execute("SELECT revision, total, seal FROM header WHERE id = 1").fetchone()
    return Tally(*row) if row else None


def read_rows(connection: sqlite3.Connection) -> Iterator[SealedRecord]:
    """All rows in order of path, tombstones included."""
    for row in connection.execute(f"SELECT {_COLUMNS} FROM records ORDER BY path"):
        yield _record(row)


def read_newest(connection: sqlite3.Connection, prefix: str) -> int:
    """The highest revision of the rows, tombstones included, whose path begins with `prefix`."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    query = "SELECT MAX(revision) FROM records WHERE path >= ? AND path < ?"
    row = connection.execute(query, (prefix, end)).fetchone()
    return int(row[0] or 0)


def read_row(connection: sqlite3.Connection, path: str) -> SealedRecord | None:
    """One row, or None."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM records WHERE path = ?", (path,)).fetchone()
    return _record(row) if row else None


def write_row(connection: sqlite3.Connection, sealed: SealedRecord) -> None:
    """Insert or replace a row."""
    place = sealed.place
    row = (place.path, place.version, place.revision, int(place.is_live), sealed.nonce, sealed.value)
    connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?)", row)


def write_tally(connection: sqlite3.Connection, tally: Tally) -> None:
    """Set the store-wide revision and what counts the rows."""
    row = (tally.revision, tally.total, tally.seal)
    connection.execute("UPDATE header SET revision = ?, total = ?, seal = ? WHERE id = 1", row)


def _record(row: tuple[str, int, int, int, bytes, bytes]) -> SealedRecord:
    path, version, revision, live, nonce, value = row
    return SealedRecord(Place(path, version, revision, bool(live)), nonce, value)
