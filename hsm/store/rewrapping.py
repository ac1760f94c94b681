"""Changes what opens a store. The master key and every record stay as they are; only its wrapping is made anew.

One transaction: either the new way opens the store and the old one does not, or nothing changed. Copies of the file,
backups above all, still open in the old way.
"""

from __future__ import annotations

import contextlib
import hmac
import sqlite3
from pathlib import Path

from hsm.store import database, master_key
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import Unlock, WrappedKey, wipe
from hsm.store.store import DEFAULT_BUSY_TIMEOUT_S


def rewrap(path: Path, old: Unlock, new: Unlock, *, busy_timeout_s: float = DEFAULT_BUSY_TIMEOUT_S) -> None:
    """Open the store at `path` with `old` and have it opened by `new` from now on; durable on return.

    Nodes that have the store open go on. Raises StoreError, and what the `Mac` of a token's key raises; nothing was
    changed then.
    """
    with database.opened(path, busy_timeout_s) as (connection, cluster_id, before):
        wrapped = _rewrapped(before, old, new, cluster_id)
        connection.execute("BEGIN IMMEDIATE")
        _cluster_id, present = database.read_header(path, connection)
        if present != before:
            sentence = f"somebody else changed how {path} is opened at the same time; nothing was changed here"
            raise StoreError(StoreReason.CONFLICT, sentence)
        database.write_master_key(connection, wrapped)
        connection.execute("COMMIT")
        # The old wrapping must leave the disk; where a node reads just now, this happens at its next checkpoint.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()


def _rewrapped(before: WrappedKey, old: Unlock, new: Unlock, cluster_id: bytes) -> WrappedKey:
    """The master key under `new`, tried: who locks himself out has no second chance."""
    with contextlib.ExitStack() as stack:
        master = master_key.unwrap(before, old, cluster_id)
        stack.callback(wipe, master)
        wrapped = master_key.wrap(master, new, cluster_id)
        again = master_key.unwrap(wrapped, new, cluster_id)
        stack.callback(wipe, again)
        if not hmac.compare_digest(again.reveal(), master.reveal()):
            raise StoreError(StoreReason.INVALID, "the new way does not open the store; nothing was changed")
    return wrapped
