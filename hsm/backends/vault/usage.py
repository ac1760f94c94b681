"""How much each key of a vault was used, as its nodes say it. Nothing here is on the path of a signature.

Every node counts in records of its own, so that nodes do not wait for each other; a key's usage is their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import msgspec

from hsm.backends.attributes import Usage
from hsm.backends.vault.errors import VaultError, VaultReason
from hsm.backends.vault.layout import USAGE, key_path, usage_path
from hsm.store.errors import StoreError, StoreReason
from hsm.store.store import Put, Record, Store

_Counts = dict[bytes, Usage]


def total(store: Store) -> Mapping[bytes, Usage]:
    """By SKI, all nodes together. Raises StoreError, VaultError."""
    counted: _Counts = {}
    for record in store.scan(USAGE).records:
        for ski, usage in _decoded(record).items():
            counted[ski] = counted.get(ski, Usage()).plus(usage)
    return counted


def addition(store: Store, node: str, used: Mapping[bytes, Usage]) -> list[Put]:
    """The changes that add what a node used to what it had used. Raises StoreError, VaultError.

    Keys that are gone are left out: a key that a record knows is there, because destroying it takes it out.
    """
    changes: list[Put] = []
    by_record = groupby(sorted(used), key=lambda ski: usage_path(node, ski))
    for path, skis in by_record:
        record = _find(store, path)
        known = _decoded(record) if record is not None else {}
        present = [ski for ski in skis if ski in known or _find(store, key_path(ski)) is not None]
        added = {ski: known.get(ski, Usage()).plus(used[ski]) for ski in present}
        if added:
            changes.append(_put(path, record, known | added))
    return changes


def removal(store: Store, ski: bytes) -> list[Put]:
    """The changes that forget a key. Raises StoreError, VaultError."""
    changes: list[Put] = []
    for record in store.scan(USAGE).records:
        known = _decoded(record)
        if known.pop(ski, None) is not None:
            changes.append(_put(record.path, record, known))
    return changes


def _put(path: str, record: Record | None, counted: _Counts) -> Put:
    return Put(path, msgspec.msgpack.encode(counted), record.version if record is not None else 0)


def _find(store: Store, path: str) -> Record | None:
    try:
        return store.get(path)
    except StoreError as error:
        if error.reason is not StoreReason.MISSING:
            raise
        return None


def _decoded(record: Record) -> _Counts:
    try:
        return msgspec.msgpack.decode(record.value, type=_Counts)
    except msgspec.DecodeError:
        sentence = f"{record.path!r} is stored in a form this version does not know; use the version that made it"
        raise VaultError(VaultReason.INVALID, sentence) from None
