"""Counts a store's rows in a way that only the master key can forge, so that whole rows can't come or go unnoticed.

Each row on its own is sealed to its path and version, but a row that was deleted or overwritten could be put back
whole from an old copy of the file: a destroyed key would live again. The tally is the sum of one keyed hash per row
(modulo 2**256, so a write updates it without reading the other rows), and is itself sealed together with the store's
revision. It can't tell that the *whole* file is an old copy. Bytes in, bytes out; the file is not known here.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hsm.shared.logs import Secret
from hsm.store.master_key import Bytes
from hsm.store.sealing import Place

_BYTES = 32
_MODULUS = 2 ** (8 * _BYTES)


@dataclass(frozen=True, slots=True)
class Tally:
    """What the store's header says about its rows."""

    revision: int
    total: bytes
    seal: bytes


class Tallier:
    """Makes and checks tallies under a master key."""

    def __init__(self, master: Bytes, cluster_id: bytes) -> None:
        expand = HKDFExpand(algorithm=SHA256(), length=_BYTES, info=b"sealgate store tally v1" + cluster_id)
        self._key = Secret(expand.derive(master.reveal()))

    def empty(self) -> Tally:
        """The tally of a store without rows."""
        return self._sealed(0, 0)

    def after(self, tally: Tally, removed: Iterable[Place], added: Iterable[Place]) -> Tally:
        """The tally of the next revision, in which some rows gave way to others."""
        gone = sum(self._hash(place) for place in removed)
        total = int.from_bytes(tally.total) - gone + sum(self._hash(place) for place in added)
        return self._sealed(tally.revision + 1, total % _MODULUS)

    def is_genuine(self, tally: Tally) -> bool:
        """Whether it was made with the master key."""
        try:
            wanted = self._sealed(tally.revision, int.from_bytes(tally.total))
        except OverflowError:
            return False
        return hmac.compare_digest(wanted.seal, tally.seal)

    def counts(self, tally: Tally, rows: Iterable[Place]) -> bool:
        """Whether `rows` are all the rows of a genuine tally, and no others."""
        total = sum(self._hash(place) for place in rows) % _MODULUS
        return hmac.compare_digest(total.to_bytes(_BYTES), tally.total)

    def _hash(self, place: Place) -> int:
        return int.from_bytes(hmac.digest(self._key.reveal(), b"row" + place.encoded(), "sha256"))

    def _sealed(self, revision: int, total: int) -> Tally:
        message = total.to_bytes(_BYTES)
        seal = hmac.digest(self._key.reveal(), b"tally" + revision.to_bytes(8) + message, "sha256")
        return Tally(revision, message, seal)
