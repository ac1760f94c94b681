"""What an administrator does with a vault's keys. No operation returns private bytes.

Every change is on disk when its method returns, and other processes that share the store see it at their next
refresh. Methods block (generating RSA-4096 takes seconds) and may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hsm.backends.vault import keys
from hsm.backends.vault.errors import VaultError, VaultReason, store_errors_translated
from hsm.backends.vault.keys import KeyRecord, PrivateKey, SealedKey
from hsm.backends.vault.layout import KEYS, key_path, label_path, ski_of_path
from hsm.backends.vault.x509_forms import leaf_builder, parse_names, parse_subject, request_builder, signature_hash
from hsm.store.errors import StoreError, StoreReason
from hsm.store.store import Delete, Put, Record, Store
from hsm.wire.schemes import KeyType

MAX_SELF_SIGNED_DAYS = 397
"""Browsers refuse certificates that are valid for longer."""


class VaultAdmin:
    """Manages the keys in an open store. Keys are named by SKI (20 bytes, or 40 hex digits) or by label."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def generate(self, type: KeyType, label: str) -> KeyRecord:
        """Make a new key inside the vault. Raises VaultError."""
        keys.check_label(label)
        self._refuse_taken(label)  # before the work, and again by the store when it is done
        return self._add(keys.generate(type), label, imported=False)

    def import_pem(self, pem: bytes, password: bytes | None, label: str) -> KeyRecord:
        """Take over a key from outside (PEM: PKCS#8, PKCS#1, SEC 1); it is flagged as imported for ever.

        Raises VaultError. Destroy the outside copies: the vault can't.
        """
        keys.check_label(label)
        self._refuse_taken(label)
        return self._add(keys.from_pem(pem, password), label, imported=True)

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
        """A PEM certificate request signed by the key, for a CA to certify. Raises VaultError."""
        builder = request_builder(subject, names)
        key = self._private(reference)
        return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def self_sign(self, reference: str | bytes, subject: str, names: Sequence[str], days: int = 90) -> bytes:
        """A PEM certificate that the key signs for itself, valid for `days` (1..397). Raises VaultError."""
        if not 1 <= days <= MAX_SELF_SIGNED_DAYS:
            raise VaultError(VaultReason.INVALID, f"days must be 1 to {MAX_SELF_SIGNED_DAYS}, not {days}")
        name, alternative = parse_subject(subject), parse_names(names)
        key = self._private(reference)
        own_ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        now = datetime.now(UTC)
        builder = leaf_builder(name, alternative, key.public_key(), issuer=name, issuer_ski=own_ski, now=now, days=days)
        return builder.sign(key, signature_hash(key)).public_bytes(Encoding.PEM)

    def destroy(self, reference: str | bytes) -> KeyRecord:
        """Delete a key for ever and return what it was. Certificates made for it become useless. Raises VaultError."""
        record = self._find(reference)
        public = _public(record)
        with store_errors_translated():
            index = self._store.get(label_path(public.label))
            self._store.write(
                [Delete(record.path, record.version), Delete(index.path, index.version)],
            )
        return public

    def _add(self, key: PrivateKey, label: str, *, imported: bool) -> KeyRecord:
        public, value = keys.seal(key, label, imported=imported, now=datetime.now(UTC))
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
        shown = reference.hex() if isinstance(reference, bytes) else reference
        raise VaultError(VaultReason.NOT_FOUND, f"the vault has no key {shown!r}; list the keys to see their names")

    def _private(self, reference: str | bytes) -> PrivateKey:
        record = self._find(reference)
        ski, sealed = _unseal(record)
        return keys.private_key_of(sealed, ski)

    # The last method, because in the class body its name hides the built-in type from annotations below it.
    def list(self) -> list[KeyRecord]:
        """All keys, by label. Keys that can't be read are left out; `damaged` names them. Raises VaultError."""
        return self._survey()[0]


def _label_taken(label: str) -> VaultError:
    return VaultError(VaultReason.EXISTS, f"a key labelled {label!r} exists already; choose another label")


def _unseal(record: Record) -> tuple[bytes, SealedKey]:
    ski = ski_of_path(record.path) or b""
    return ski, keys.unseal(record.value, ski)


def _public(record: Record) -> KeyRecord:
    ski, sealed = _unseal(record)
    return sealed.record(ski)
