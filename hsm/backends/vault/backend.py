"""Signs with the keys of a vault. Keys are decrypted into memory once; signing never touches the store.

The set of keys is an immutable snapshot behind one reference, so readers need no lock and a refresh swaps it whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import BackendError, Cost
from hsm.backends.vault.errors import VaultError, store_errors_translated
from hsm.backends.vault.keys import private_key_of, unseal
from hsm.backends.vault.layout import KEYS, ski_of_path
from hsm.backends.vault.signing import Sign, cost_of, signers_of
from hsm.shared.logs import get_logger
from hsm.store.errors import StoreError
from hsm.store.store import Record, Scan, Store, StoreState
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import Scheme

FULL_SCAN_INTERVAL_S = 60.0
"""A store that changes is read whole at least so often, also when no key seems to have changed: only that proves it."""


@dataclass(frozen=True, slots=True)
class _LoadedKey:
    entry: KeyEntry
    attributes: KeyAttributes
    version: int
    cost: Cost
    signers: Mapping[Scheme, Sign] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    state: StoreState
    """The store's, when it was last looked at."""
    revision: int
    """The store's, when keys or their attributes last changed."""
    read_at: float
    keys: Mapping[bytes, _LoadedKey]
    entries: tuple[KeyEntry, ...]
    damaged: tuple[str, ...]


class VaultBackend:
    """A `Backend` over an open store; see `hsm.backends.base.Backend` for what its methods promise."""

    def __init__(self, store: Store) -> None:
        """Load all keys. Raises VaultError when the store can't be read; damaged keys are left out and logged."""
        self._store = store
        self._log = get_logger("vault")
        self._refreshing = threading.Lock()
        self._last_failure = ""
        with store_errors_translated():
            scan = store.scan(KEYS)
        self._snapshot = self._load(scan, None)

    @property
    def revision(self) -> int:
        """The store's revision at which the keys, as they are now, were read."""
        return self._snapshot.revision

    @property
    def damaged(self) -> tuple[str, ...]:
        """A sentence for each key that could not be read; the others work."""
        return self._snapshot.damaged

    def keys(self) -> tuple[KeyEntry, ...]:
        """All keys, by label."""
        return self._snapshot.entries

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        """What is kept with a key."""
        key = self._snapshot.keys.get(ski)
        return key.attributes if key is not None else KeyAttributes()

    def refresh(self) -> bool:
        """Take over what other processes wrote; True when keys or attributes did change.

        Raises BackendError(READ) when the store can't be read: the keys in memory stay, and it is logged once.
        """
        with self._refreshing:
            before = self._snapshot
            try:
                if not self._store.has_changed(before.state):
                    return False
                if self._is_only_usage(before):
                    return False
                scan = self._store.scan(KEYS)
            except StoreError as error:
                if error.sentence != self._last_failure:
                    self._log.error("vault_refresh_failed", reason=error.reason.value, error=error.sentence)
                self._last_failure = error.sentence
                raise BackendError(ErrorCode.READ, error.sentence) from None
            self._snapshot = self._load(scan, before)
            self._last_failure = ""
            return self._snapshot.revision != before.revision

    def _is_only_usage(self, before: _Snapshot) -> bool:
        """Whether nodes only counted what they signed, which they do all the time; the keys need not be read then.

        Nothing here is authenticated: whoever can write the file may hide changes so, for a minute at most.
        """
        state = self._store.state()
        is_written = state.revision > before.state.revision
        if not is_written or time.monotonic() - before.read_at > FULL_SCAN_INTERVAL_S:
            return False
        if self._store.newest(KEYS) > before.state.revision:
            return False
        self._snapshot = replace(before, state=state)
        return True

    def sign(self, ski: bytes, scheme: Scheme, payload: bytes) -> bytes:
        """Sign. Raises BackendError: KEY_NOT_FOUND, CRYPTOGRAPHY (the scheme does not fit), MALFORMED (length)."""
        key = self._snapshot.keys.get(ski)
        if key is None:
            raise BackendError(ErrorCode.KEY_NOT_FOUND, f"this node has no key {ski.hex()}")
        signer = key.signers.get(scheme)
        if signer is None:
            detail = f"a {key.entry.type.value} key can't sign {scheme.value}"
            raise BackendError(ErrorCode.CRYPTOGRAPHY, detail)
        expected = scheme.payload_bytes
        if expected is not None and len(payload) != expected:
            detail = f"{scheme.value} signs a digest of {expected} bytes, {len(payload)} were given"
            raise BackendError(ErrorCode.MALFORMED, detail)
        try:
            return signer(payload)
        except Exception as error:  # whatever the library raises, the client gets a code and the log the class
            self._log.error("vault_sign_failed", ski=ski.hex(), scheme=scheme.value, error=type(error).__name__)
            raise BackendError(ErrorCode.CRYPTOGRAPHY, "the signature could not be made") from None

    def cost(self, ski: bytes) -> Cost:
        """How dear a signature is; unknown keys are cheap, because they are refused at once."""
        key = self._snapshot.keys.get(ski)
        return key.cost if key is not None else "cheap"

    def close(self) -> None:
        """Forget the keys; the store belongs to whoever opened it."""
        self._snapshot = replace(self._snapshot, keys={}, entries=(), damaged=())

    def _load(self, scan: Scan, before: _Snapshot | None) -> _Snapshot:
        loaded = before.keys if before is not None else {}
        known_damage = before.damaged if before is not None else ()
        keys: dict[bytes, _LoadedKey] = {}
        damaged = [error.sentence for error in scan.damaged]
        for error in scan.damaged:
            # A key in memory was authentic when it was read; vandals must not be able to stop it.
            ski = ski_of_path(error.record)
            if ski is not None and ski in loaded:
                keys[ski] = loaded[ski]
        for record in scan.records:
            try:
                key = self._load_one(record, loaded)
            except VaultError as problem:
                damaged.append(str(problem))
            else:
                keys[key.entry.ski] = key
        for sentence in set(damaged) - set(known_damage):
            self._log.error("vault_key_damaged", error=sentence)
        entries = tuple(sorted((key.entry for key in keys.values()), key=lambda entry: (entry.label, entry.ski)))
        is_same = before is not None and _described(keys) == _described(loaded)
        revision = before.revision if before is not None and is_same else scan.revision
        return _Snapshot(scan.state, revision, time.monotonic(), keys, entries, tuple(sorted(damaged)))

    def _load_one(self, record: Record, loaded: Mapping[bytes, _LoadedKey]) -> _LoadedKey:
        ski = ski_of_path(record.path) or b""
        known = loaded.get(ski)
        if known is not None and known.version >= record.version:
            # Versions only grow: an older row was put back, to undo a retirement or a limit. The scan tells of it.
            return known
        sealed = unseal(record.value, ski)
        public = sealed.record(ski)
        # A SKI names one key for ever: where only its attributes changed, it need not be decoded again.
        signers = known.signers if known is not None else signers_of(private_key_of(sealed, ski))
        entry = KeyEntry(ski, public.type, public.label)
        return _LoadedKey(entry, public.attributes, record.version, cost_of(public.type), signers)


def _described(keys: Mapping[bytes, _LoadedKey]) -> dict[bytes, tuple[KeyEntry, KeyAttributes]]:
    return {ski: (key.entry, key.attributes) for ski, key in keys.items()}
