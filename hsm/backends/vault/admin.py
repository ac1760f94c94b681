"""What an administrator does with a vault's keys. No operation returns private bytes.

Every change is on disk when its method returns, and other processes that share the store see it at their next
refresh. Methods block (generating RSA-4096 takes seconds) and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from cryptography.hazmat.primitives.serialization import Encoding

from hsm.backends.attributes import KeyAttributes, Usage
from hsm.backends.vault import keys, usage
from hsm.backends.vault.errors import VaultError, VaultReason, form_problems_translated, store_errors_translated
from hsm.backends.vault.keys import KeyRecord, PrivateKey, SealedKey
from hsm.backends.vault.layout import KEYS, key_path, label_path, ski_of_path
from hsm.backends.x509_forms import request_builder, self_signed_builder, signature_hash
from hsm.store.errors import StoreError, StoreReason
from hsm.store.store import Delete, Put, Record, Store
from hsm.wire.schemes import KeyType

CHANGE_ATTEMPTS = 20
"""How often a change is made again because somebody else was faster."""


class VaultAdmin:
    """A `KeyAdmin` of an open store. Keys are named by SKI (20 bytes, or 40 hex digits) or by label."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def generate(self, type: KeyType, label: str, attributes: KeyAttributes = KeyAttributes()) -> KeyRecord:
        """Make a new key inside the vault. Raises VaultError."""
        keys.check_label(label)
        keys.check_attributes(attributes, type)
        self._refuse_taken(label)  # before the work, and again by the store when it is done
        return self._add(keys.generate(type), label, attributes, imported=False)

    def import_pem(
        self, pem: bytes, password: bytes | None, label: str, attributes: KeyAttributes = KeyAttributes()
    ) -> KeyRecord:
        """Take over a key from outside (PEM: PKCS#8, PKCS#1, SEC 1); it is flagged as imported for ever.

        Raises VaultError. Destroy the outside copies: the vault can't.
        """
        keys.check_label(label)
        self._refuse_taken(label)
        return self._add(keys.from_pem(pem, password), label, attributes, imported=True)

    def damaged(self) -> tuple[str, ...]:
        """A sentence for each key that can't be read. Raises VaultError when nothing can."""
        return self._survey()[1]

    def _survey(self) -> tuple[list[KeyRecord], tuple[str, ...]]:
        with store_errors_translated():
            scan = self._store.scan(KEYS)
        found: list[KeyRecord] = []
        damaged = [str(error) for error in scan.damaged]
        for record in scan.records:
            try:
                found.append(_public(record))
            except VaultError as error:
                damaged.append(str(error))
        return sorted(found, key=lambda record: (record.label, record.ski)), tuple(damaged)

    def get(self, reference: str | bytes) -> KeyRecord:
        """One key. Raises VaultError."""
        return _public(self._find(reference))

    def csr(self, reference: str | bytes, subject: str, names: Sequence[str]) -> bytes:
        """A PEM certificate request signed by the key, for a CA to certify; of the form of the key's purpose.

        Raises VaultError.
        """
        key, record = self._private(reference)
        with form_problems_translated():
            builder = request_builder(subject, names, record.attributes.purpose)
        return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def self_sign(self, reference: str | bytes, subject: str, names: Sequence[str], days: int = 90) -> bytes:
        """A PEM certificate that the key signs for itself, valid for `days`; of the form of the key's purpose.

        Raises VaultError.
        """
        key, record = self._private(reference)
        with form_problems_translated():
            builder = self_signed_builder(
                subject, names, key.public_key(), purpose=record.attributes.purpose, now=datetime.now(UTC), days=days
            )
        return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def change(self, reference: str | bytes, change: Callable[[KeyRecord], KeyAttributes]) -> KeyRecord:
        """Replace a key's attributes by what `change` makes of its record. Raises VaultError, and what it raises.

        The record gets a new version even where nothing is different, so that a slower change is made again.
        """
        for _ in range(CHANGE_ATTEMPTS):
            record = self._find(reference)
            ski, sealed = _unseal(record)
            attributes = change(sealed.record(ski))
            changed = Put(record.path, keys.seal_again(sealed, attributes), record.version)
            with store_errors_translated():
                try:
                    self._store.write([changed])
                except StoreError as error:
                    if error.reason is not StoreReason.CONFLICT:
                        raise
                    continue
            return replace(sealed.record(ski), attributes=attributes)
        raise _too_contended(reference)

    def destroy(self, reference: str | bytes) -> KeyRecord:
        """Delete a key for ever and return what it was. Certificates made for it become useless. Raises VaultError."""
        for _ in range(CHANGE_ATTEMPTS):
            record = self._find(reference)
            public = _public(record)
            with store_errors_translated():
                index = self._store.get(label_path(public.label))
                gone = [Delete(record.path, record.version), Delete(index.path, index.version)]
                try:
                    self._store.write([*gone, *usage.removal(self._store, public.ski)])
                except StoreError as error:
                    if error.reason is not StoreReason.CONFLICT:
                        raise
                    continue  # a node counted meanwhile, or somebody changed the key
            return public
        raise _too_contended(reference)

    def add_usage(self, node: str, used: Mapping[bytes, Usage]) -> None:
        """Add what one node has signed since it last said so. Keys that are gone are left out. Raises VaultError."""
        for _ in range(CHANGE_ATTEMPTS):
            with store_errors_translated():
                changes = usage.addition(self._store, node, used)
                try:
                    if changes:
                        self._store.write(changes)
                except StoreError as error:
                    if error.reason not in (StoreReason.CONFLICT, StoreReason.EXISTS):
                        raise
                    continue
            return
        raise _too_contended(f"usage of {node}")

    def usage(self) -> Mapping[bytes, Usage]:
        """How much keys were used, by SKI, all nodes together. Keys never used are left out. Raises VaultError."""
        with store_errors_translated():
            return usage.total(self._store)

    def _add(self, key: PrivateKey, label: str, attributes: KeyAttributes, *, imported: bool) -> KeyRecord:
        public, value = keys.seal(key, label, attributes, imported=imported, now=datetime.now(UTC))
        changes = [Put(key_path(public.ski), value, 0), Put(label_path(label), public.ski, 0)]
        with store_errors_translated():
            try:
                self._store.write(changes)
            except StoreError as error:
                if error.reason is not StoreReason.EXISTS:
                    raise
                if error.record == label_path(label):
                    raise _label_taken(label) from None
                sentence = f"this key is in the vault already, as {self.get(public.ski).label!r}"
                raise VaultError(VaultReason.EXISTS, sentence) from None
        return public

    def _refuse_taken(self, label: str) -> None:
        if self._ski_of_label(label) is not None:
            raise _label_taken(label)

    def _ski_of_label(self, label: str) -> bytes | None:
        with store_errors_translated():
            try:
                return self._store.get(label_path(label)).value
            except StoreError as error:
                if error.reason is not StoreReason.MISSING:
                    raise
                return None

    def _find(self, reference: str | bytes) -> Record:
        ski = keys.ski_in(reference)
        if ski is None:
            ski = self._ski_of_label(keys.check_label(str(reference)))
        if ski is not None:
            with store_errors_translated():
                try:
                    return self._store.get(key_path(ski))
                except StoreError as error:
                    if error.reason is not StoreReason.MISSING:
                        raise
        raise VaultError(
            VaultReason.NOT_FOUND, f"the vault has no key {_shown(reference)!r}; list the keys to see their names"
        )

    def _private(self, reference: str | bytes) -> tuple[PrivateKey, KeyRecord]:
        record = self._find(reference)
        ski, sealed = _unseal(record)
        return keys.private_key_of(sealed, ski), sealed.record(ski)

    # The last method, because in the class body its name hides the built-in type from annotations below it.
    def list(self) -> list[KeyRecord]:
        """All keys, by label. Keys that can't be read are left out; `damaged` names them. Raises VaultError."""
        return self._survey()[0]


def _label_taken(label: str) -> VaultError:
    return VaultError(VaultReason.EXISTS, f"a key labelled {label!r} exists already; choose another label")


def _too_contended(reference: str | bytes) -> VaultError:
    sentence = f"others change {_shown(reference)!r} all the time; try again"
    return VaultError(VaultReason.CONFLICT, sentence)


def _shown(reference: str | bytes) -> str:
    return reference.hex() if isinstance(reference, bytes) else reference


def _unseal(record: Record) -> tuple[bytes, SealedKey]:
    ski = ski_of_path(record.path) or b""
    return ski, keys.unseal(record.value, ski)


def _public(record: Record) -> KeyRecord:
    ski, sealed = _unseal(record)
    return sealed.record(ski)
