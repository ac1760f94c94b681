"""Seals the value of one record. Bytes in, bytes out; the store's file is not known here.

AES-256-GCM with a random 96-bit nonce. The associated data bind a value to its cluster, path, version, revision and
to whether it is a tombstone, so a sealed value means nothing anywhere but where it was written. One master key is
good for 2**32 writes (NIST SP 800-38D 8.3), far beyond what a store of keys sees.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import NONCE_BYTES, Bytes

_LABEL = b"sealgate record v1\0"
_NUMBERS = struct.Struct(">QQ?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands; all of it is authenticated."""

    path: str
    version: int
    """Counts the writes of this record, from 1; goes on through deletion."""
    revision: int
    """The store's revision after the write."""
    is_live: bool
    """False for a tombstone, which keeps the version of a deleted record."""

    def encoded(self) -> bytes:
        """Unambiguous bytes. Raises struct.error for numbers that no store has."""
        path = self.path.encode("utf-8", "surrogateescape")
        return _NUMBERS.pack(self.version, self.revision, self.is_live) + path


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A row of the store."""

    place: Place
    nonce: bytes = field(repr=False)
    value: bytes = field(repr=False)


class Sealer:
    """Seals and opens values under a master key."""

    def __init__(self, master: Bytes, cluster_id: bytes) -> None:
        self._cipher = AESGCM(master.reveal())
        self._cluster_id = cluster_id

    def seal(self, place: Place, value: bytes) -> SealedRecord:
        """Encrypt `value` for `place`."""
        nonce = os.urandom(NONCE_BYTES)
        return SealedRecord(place, nonce, self._cipher.encrypt(nonce, value, self._associated_data(place)))

    def open(self, sealed: SealedRecord) -> bytes:
        """Decrypt. Raises StoreError naming the record when anything about the row was changed."""
        try:
            return self._cipher.decrypt(sealed.nonce, sealed.value, self._associated_data(sealed.place))
        except (InvalidTag, ValueError, TypeError, struct.error):
            path = sealed.place.path
            sentence = (
                f"record {path!r} was altered, moved or replaced outside of Sealgate; restore the store from a backup"
            )
            raise StoreError(StoreReason.TAMPERED, sentence, record=path) from None

    def _associated_data(self, place: Place) -> bytes:
        return _LABEL + self._cluster_id + place.encoded()
