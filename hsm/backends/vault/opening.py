"""Opens and creates vault stores from what a config or command line names."""

from __future__ import annotations

from pathlib import Path

from hsm.backends.vault.errors import VaultError, VaultReason, store_errors_translated
from hsm.store import master_key
from hsm.store.master_key import Unlock
from hsm.store.shares import ShareSet
from hsm.store.store import Store


def open_store(path: Path, *, passphrase_file: Path | None = None, key_file: Path | None = None) -> Store:
    """Open the store of a vault by a passphrase file (first line) or a key file (32 bytes); exactly one of them.

    Raises VaultError: missing or unsafe files, wrong passphrase or key.
    """
    with store_errors_translated():
        return open_store_with(path, unlock_from(passphrase_file, key_file))


def open_store_with(path: Path, unlock: Unlock) -> Store:
    """Open the store of a vault; what opens it is forgotten, whether it does or not. Raises VaultError."""
    try:
        with store_errors_translated():
            return Store.open(path, unlock)
    finally:
        master_key.forget(unlock)


def create_store(path: Path, *, passphrase_file: Path | None = None, key_file: Path | None = None) -> Store:
    """Make a new, empty store and open it. Raises VaultError; never overwrites."""
    with store_errors_translated():
        return Store.create(path, unlock_from(passphrase_file, key_file))


def share_set_of(path: Path) -> ShareSet:
    """The shares that open the store of a vault. Raises VaultError where it is opened by something else."""
    with store_errors_translated():
        wrapped = Store.peek(path)
    if wrapped.share_set is None:
        sentence = f"{path} is not opened by shares but by {wrapped.opened_by}; `sealgate vault rewrap` changes that"
        raise VaultError(VaultReason.INVALID, sentence)
    return wrapped.share_set


def unlock_from(passphrase_file: Path | None, key_file: Path | None) -> Unlock:
    """Read the one of two files that is given. Raises VaultError, StoreError."""
    if passphrase_file is not None and key_file is None:
        return master_key.passphrase_from_file(passphrase_file)
    if key_file is not None and passphrase_file is None:
        return master_key.key_file(key_file)
    raise VaultError(VaultReason.INVALID, "give either a passphrase file or a key file")
