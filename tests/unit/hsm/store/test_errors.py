from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from hsm.store.errors import StoreReason, from_sqlite


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (sqlite3.SQLITE_BUSY, StoreReason.LOCKED, "locked by another program"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StoreReason.LOCKED, "locked by another program"),
        (sqlite3.SQLITE_FULL, StoreReason.FULL, "the disk is full"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, StoreReason.READ_ONLY, "can't be written"),
        (sqlite3.SQLITE_NOTADB, StoreReason.NOT_A_STORE, "is not a Sealgate store"),
        (sqlite3.SQLITE_CORRUPT, StoreReason.DAMAGED, "restore it from a backup"),
        (sqlite3.SQLITE_IOERR_WRITE, StoreReason.DAMAGED, "is the disk full"),
        (sqlite3.SQLITE_MISUSE, StoreReason.DAMAGED, "unexpected error: text"),
    ],
)
def test_sqlite_errors_become_reasons_and_sentences(code: int, reason: StoreReason, words: str) -> None:
    error = sqlite3.OperationalError("text")
    error.sqlite_errorcode = code
    translated = from_sqlite(Path("/x/store.db"), error)
    assert translated.reason is reason
    assert str(translated).startswith("/x/store.db ")
    assert words in str(translated)


def test_an_error_without_a_code_still_gets_a_sentence() -> None:
    assert "unexpected error: odd" in str(from_sqlite(Path("s"), sqlite3.ProgrammingError("odd")))
