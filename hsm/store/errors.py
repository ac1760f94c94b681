"""Why the store refused: an enum to branch on, and a sentence for the user."""

from __future__ import annotations

import sqlite3
from enum import StrEnum
from pathlib import Path


class StoreReason(StrEnum):
    """What kind of refusal it is."""

    MISSING = "missing"
    """No file, or no such record."""
    EXISTS = "exists"
    """A new store would overwrite a file, or a new record a record."""
    CONFLICT = "conflict"
    """Somebody else changed the record since it was read; read it again."""
    WRONG_KEY = "wrong_key"
    """The passphrase or key file does not open this store."""
    TAMPERED = "tampered"
    """A record is not what was written by somebody who holds the master key."""
    UNSAFE_FILE = "unsafe_file"
    """Others may read or change a file that must be private."""
    NOT_A_STORE = "not_a_store"
    TOO_NEW = "too_new"
    REPLACED = "replaced"
    """Another file took the store's place while it was open."""
    LOCKED = "locked"
    READ_ONLY = "read_only"
    FULL = "full"
    DAMAGED = "damaged"
    """The file system or the database file is broken."""
    INVALID = "invalid"
    """The caller's path, value or setting is not allowed."""


class StoreError(Exception):
    """The store refused; nothing was changed. `record` names the record where one is concerned."""

    def __init__(self, reason: StoreReason, sentence: str, *, record: str = "") -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence
        self.record = record

    def __str__(self) -> str:
        return self.sentence


_BY_CODE = {
    sqlite3.SQLITE_BUSY: (StoreReason.LOCKED, "is locked by another program; try again"),
    sqlite3.SQLITE_LOCKED: (StoreReason.LOCKED, "is locked by another program; try again"),
    sqlite3.SQLITE_FULL: (StoreReason.FULL, "can't grow: the disk is full; free some space, nothing was changed"),
    sqlite3.SQLITE_READONLY: (StoreReason.READ_ONLY, "can't be written; check permissions and the file system"),
    sqlite3.SQLITE_CANTOPEN: (StoreReason.DAMAGED, "can't be opened; check the folder and its permissions"),
    sqlite3.SQLITE_PERM: (StoreReason.READ_ONLY, "can't be accessed; check its permissions"),
    sqlite3.SQLITE_NOTADB: (StoreReason.NOT_A_STORE, "is not a Sealgate store"),
    sqlite3.SQLITE_CORRUPT: (StoreReason.DAMAGED, "is damaged; restore it from a backup"),
    sqlite3.SQLITE_IOERR: (StoreReason.DAMAGED, "can't be read or written: the disk reports an error"),
}
_DISK_FULL_WRITES = (778, 1034, 4874)
"""SQLITE_IOERR_WRITE, _FSYNC and _SHMSIZE: what a full disk looks like where it is noticed late."""


def from_sqlite(path: Path, error: sqlite3.Error) -> StoreError:
    """The one place where SQLite's errors get their meaning."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    reason, sentence = _BY_CODE.get(code & 0xFF, (StoreReason.DAMAGED, f"gave an unexpected error: {error}"))
    if code in _DISK_FULL_WRITES:
        sentence += " (is the disk full?)"
    return StoreError(reason, f"{path} {sentence}")
