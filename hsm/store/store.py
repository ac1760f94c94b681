"""Records by path, encrypted one by one, in one SQLite file that several processes of a host share.

Knows nothing of keys or users. Writes are optimistic transactions: each change says which version of its record it
was made for, and all changes of a transaction happen or none. A write is on disk when `write` returns.

A store is not to be used across a fork. Its methods may be called from any thread; they block for disk work.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hsm.shared.logs import Secret
from hsm.store import database, master_key
from hsm.store.errors import StoreError, StoreReason, from_sqlite
from hsm.store.master_key import Bytes, Unlock, WrappedKey, wipe
from hsm.store.sealing import Place, SealedRecord, Sealer
from hsm.store.tally import Tallier, Tally

MAX_VALUE_BYTES = 1024 * 1024
DEFAULT_BUSY_TIMEOUT_S = 5.0
_PATH = re.compile(r"^(?=.{1,255}$)[a-z][a-z0-9-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)+\Z", re.ASCII)
_PREFIX = re.compile(r"^[a-z][a-z0-9-]*/\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read. `repr` does not show the value."""

    path: str
    version: int
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreState:
    """What a store had been through when it was read; comparable for equality only."""

    changed_by_others: int
    """SQLite's counter of commits by other connections; means nothing outside of this one."""
    revision: int


@dataclass(frozen=True, slots=True)
class Scan:
    """All records under a prefix at one instant, and what could not be opened."""

    state: StoreState
    """Give it to `has_changed`."""
    records: tuple[Record, ...]
    damaged: tuple[StoreError, ...]
    """One error per record that was tampered with; the others are good. Where rows were removed or put back whole,
    one error without a record's name."""

    @property
    def revision(self) -> int:
        """The store-wide revision at that instant."""
        return self.state.revision


@dataclass(frozen=True, slots=True)
class Put:
    """Write a record. `expected_version` is the version that was read, or 0 for a record that must not exist yet."""

    path: str
    value: bytes = field(repr=False)
    expected_version: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a record that was read at `expected_version`."""

    path: str
    expected_version: int


Change = Put | Delete


class Store:
    """An open store. Make one with `Store.create` or `Store.open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, cluster_id: bytes, master: Bytes) -> None:
        self.path = path
        self.cluster_id = cluster_id
        self._sealer = Sealer(master, cluster_id)
        self._tallier = Tallier(master, cluster_id)
        self._connection = connection
        self._lock = threading.RLock()
        self._is_open = True
        self._file_id = _file_id(path)

    @classmethod
    def create(cls, path: Path, unlock: Unlock, *, busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S) -> Store:
        """Make a new, empty store with a new master key, and open it. Raises StoreError; never overwrites."""
        cluster_id = os.urandom(database.CLUSTER_ID_BYTES)
        master = Secret(bytearray(os.urandom(master_key.KEY_BYTES)))
        try:
            wrapped = master_key.wrap(master, unlock, cluster_id)
            database.create(path, cluster_id, wrapped, Tallier(master, cluster_id).empty())
        finally:
            wipe(master)
        return cls.open(path, unlock, busy_timeout_s=busy_timeout_s)

    @classmethod
    def open(cls, path: Path, unlock: Unlock, *, busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S) -> Store:
        """Open a store. Raises StoreError: missing, unsafe mode, not a store, wrong passphrase, key file, ...; and what
        the `Mac` of a token's key raises."""
        with (
            database.opened(path, busy_timeout_s) as (connection, cluster_id, wrapped),
            contextlib.ExitStack() as stack,
        ):
            master = master_key.unwrap(wrapped, unlock, cluster_id)
            stack.callback(wipe, master)
            return cls(path, connection, cluster_id, master)

    @staticmethod
    def peek(path: Path, *, busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S) -> WrappedKey:
        """How a store is opened, without opening it. Raises StoreError."""
        with database.opened(path, busy_timeout_s) as (connection, _cluster_id, wrapped):
            connection.close()
            return wrapped

    def close(self) -> None:
        """Close the file. What was made from the master key is forgotten with this object, not before. Repeatable."""
        with self._lock:
            self._is_open = False
            self._connection.close()

    def has_changed(self, since: StoreState) -> bool:
        """Whether anybody, this process included, wrote since a `scan`. Takes some 10 us.

        Raises StoreError when another file took the store's place.
        """
        with self._reading():
            return self._state() != since

    def state(self) -> StoreState:
        """What `has_changed` compares with, now."""
        with self._reading():
            return self._state()

    def revision(self) -> int:
        """The store-wide revision: grows by one with each transaction."""
        with self._reading():
            return database.read_revision(self._connection)

    def newest(self, prefix: str) -> int:
        """The store-wide revision of the latest write, or deletion, under a prefix; 0 where there was none.

        Not authenticated, and cheap: it may save a scan, but proves nothing.
        """
        with self._reading():
            return database.read_newest(self._connection, prefix)

    def get(self, path: str) -> Record:
        """One record. Raises StoreError: MISSING, TAMPERED."""
        with self._reading():
            sealed = database.read_row(self._connection, path)
        if sealed is not None:
            value = self._sealer.open(sealed)
            if sealed.place.is_live:
                return Record(path, sealed.place.version, value)
        raise StoreError(StoreReason.MISSING, f"there is no record {path!r}", record=path)

    def scan(self, prefix: str) -> Scan:
        """All records whose path begins with `prefix` ("keys/"), from one consistent view."""
        if not _PREFIX.match(prefix):
            raise StoreError(StoreReason.INVALID, f"{prefix!r} is not a prefix; write one word and a slash")
        with self._reading(), self._transaction("DEFERRED"):
            state = self._state()
            tally = database.read_tally(self._connection)
            rows = list(database.read_rows(self._connection))
        records: list[Record] = []
        damaged: list[StoreError] = []
        for sealed in rows:
            if not sealed.place.path.startswith(prefix):
                continue
            try:
                value = self._sealer.open(sealed)
            except StoreError as error:
                damaged.append(error)
                continue
            if sealed.place.is_live:
                records.append(Record(sealed.place.path, sealed.place.version, value))
        if not damaged and not self._are_all(rows, tally):
            damaged.append(self._rows_came_or_went())
        return Scan(state, tuple(records), tuple(damaged))

    def write(self, changes: Sequence[Change]) -> int:
        """Apply all changes or none; they are durable on return. Returns the new revision.

        Raises StoreError: CONFLICT or EXISTS (somebody else was faster), LOCKED, FULL, READ_ONLY, TAMPERED, ...
        """
        for change in changes:
            _check_change(change)
        with self._reading(), self._transaction("IMMEDIATE"):
            tally = database.read_tally(self._connection)
            if tally is None or not self._tallier.is_genuine(tally):
                raise self._rows_came_or_went()
            removed: list[Place] = []
            added: list[Place] = []
            for change in changes:
                present, sealed = self._sealed(change, tally.revision + 1)
                removed += [present.place] if present is not None else []
                added.append(sealed.place)
                database.write_row(self._connection, sealed)
            tally = self._tallier.after(tally, removed, added)
            database.write_tally(self._connection, tally)
        if any(isinstance(change, Delete) for change in changes):
            self._forget_old_pages()
        return tally.revision

    def _sealed(self, change: Change, revision: int) -> tuple[SealedRecord | None, SealedRecord]:
        """The present row and the one that takes its place. Raises StoreError when it is not the expected version."""
        path = change.path
        present = database.read_row(self._connection, path)
        if present is not None:
            self._sealer.open(present)  # a version number that was tampered with must not be built upon
        live_version = present.place.version if present is not None and present.place.is_live else 0
        if change.expected_version != live_version:
            if change.expected_version == 0:
                raise StoreError(StoreReason.EXISTS, f"record {path!r} exists already", record=path)
            raise StoreError(StoreReason.CONFLICT, f"record {path!r} was changed by somebody else", record=path)
        version = (present.place.version if present is not None else 0) + 1
        place = Place(path, version, revision, isinstance(change, Put))
        return present, self._sealer.seal(place, change.value if isinstance(change, Put) else b"")

    def _are_all(self, rows: Sequence[SealedRecord], tally: Tally | None) -> bool:
        """Whether the rows are what was written, none missing and none put back."""
        if tally is None or not self._tallier.is_genuine(tally):
            return False
        try:
            return self._tallier.counts(tally, (sealed.place for sealed in rows))
        except struct.error:
            return False

    def _rows_came_or_went(self) -> StoreError:
        sentence = (
            f"{self.path}: records were removed or older ones put back outside of Sealgate; restore the newest backup"
        )
        return StoreError(StoreReason.TAMPERED, sentence)

    def _state(self) -> StoreState:
        """Changes with every commit: SQLite's counter tells of other connections, the revision of this one."""
        changed_by_others = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return StoreState(changed_by_others, database.read_revision(self._connection))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            if not self._is_open:
                raise StoreError(StoreReason.INVALID, f"{self.path} was closed")
            if _file_id(self.path) != self._file_id:
                sentence = f"{self.path} was removed or replaced while it was open; restart this program"
                raise StoreError(StoreReason.REPLACED, sentence)
            try:
                yield
            except sqlite3.Error as error:
                raise from_sqlite(self.path, error) from None

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A failed COMMIT (full disk) may leave the transaction open, or SQLite may have ended it.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _forget_old_pages(self) -> None:
        """Move the write-ahead log into the file, so that deleted values leave the disk; later if others read now."""
        with contextlib.suppress(sqlite3.Error), self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _check_change(change: Change) -> None:
    if not _PATH.match(change.path):
        raise StoreError(StoreReason.INVALID, f"{change.path!r} is not a record path", record=change.path)
    if isinstance(change, Put) and len(change.value) > MAX_VALUE_BYTES:
        sentence = f"the value of {change.path!r} is larger than {MAX_VALUE_BYTES} bytes"
        raise StoreError(StoreReason.INVALID, sentence, record=change.path)


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
