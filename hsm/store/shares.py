"""Shamir's secret sharing (1979): a 32-byte secret cut into N shares of which any M restore it and M-1 tell nothing.

Each byte of the secret is the constant term of a random polynomial of degree M-1 over GF(2^8), modulus
x^8 + x^4 + x^3 + x + 1 (as in FIPS 197 4.2); share i is what the 32 polynomials give at i. Our own, because the one
Python library that is cared for says of itself that it is not hardened. The 32 bytes are lanes of one integer, and they
are multiplied only by numbers that everybody may know (indices and what follows from them), so neither a branch nor a
table look-up depends on a secret; only leading zero bits of an integer (one share in 65,536) could show in its time.

Pure. Knows no text (`share_text`), no store and no people.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from hsm.shared.logs import Secret

SECRET_BYTES = 32
SET_ID_BYTES = 4
COMMITMENT_BYTES = 32
MIN_THRESHOLD = 2
"""One share that opens alone would be the secret itself; a key file says that honestly."""
MAX_SHARES = 32

_ONES = int.from_bytes(b"\x01" * SECRET_BYTES)
_LOW_BITS = int.from_bytes(b"\x7f" * SECRET_BYTES)
_REDUCTION = 0x1B
_COMMITMENT_LABEL = b"sealgate share commitment v1"


@dataclass(frozen=True, slots=True)
class Share:
    """What one person keeps. `repr` does not show the body."""

    set_id: bytes
    """Names the set it belongs to; no secret."""
    threshold: int
    """M: how many shares of the set restore the secret."""
    index: int
    """1 to N."""
    body: bytes = field(repr=False)

    def commitment(self) -> bytes:
        """A hash that tells this share from any other, and gives nothing away: the body is 32 random bytes."""
        head = _COMMITMENT_LABEL + self.set_id + bytes((self.threshold, self.index))
        return hashlib.sha256(head + self.body).digest()


class ShareSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is publicly known of a set of shares: it stands in the header of the store that they open."""

    set_id: bytes
    threshold: int
    commitments: tuple[bytes, ...]
    """Of share 1, 2, ... N."""

    @property
    def name(self) -> str:
        """The set's id as people see it: 8 hex digits."""
        return self.set_id.hex()

    @property
    def count(self) -> int:
        """N: how many shares were made."""
        return len(self.commitments)

    def is_sane(self) -> bool:
        """Whether it can be a set that `deal` made; a store's file is not trusted."""
        sizes = {len(commitment) for commitment in self.commitments}
        ids_fit = len(self.set_id) == SET_ID_BYTES and sizes == {COMMITMENT_BYTES}
        return ids_fit and MIN_THRESHOLD <= self.threshold <= self.count <= MAX_SHARES

    def made(self, share: Share) -> bool:
        """Whether this very share was made for the set."""
        if share.set_id != self.set_id or share.threshold != self.threshold or not 1 <= share.index <= self.count:
            return False
        return hmac.compare_digest(share.commitment(), self.commitments[share.index - 1])


@dataclass(frozen=True, slots=True)
class Deal:
    """A new secret, cut into shares."""

    secret: Secret[bytearray]
    share_set: ShareSet
    shares: tuple[Share, ...]


def size_problem(threshold: int, count: int) -> str | None:
    """Why M of N can't be, as a sentence; None when it can."""
    if MIN_THRESHOLD <= threshold <= count <= MAX_SHARES:
        return None
    return (
        f"{threshold} of {count} shares can't be: at least {MIN_THRESHOLD} must be needed,"
        f" not more than there are, and at most {MAX_SHARES} can be made"
    )


def deal(threshold: int, count: int, random: Callable[[int], bytes] = os.urandom) -> Deal:
    """A new random secret in `count` shares, any `threshold` of which restore it; tried before it is returned.

    Raises ValueError where `size_problem` sees one.
    """
    secret = bytearray(random(SECRET_BYTES))
    shares = split(secret, threshold, count, random(SET_ID_BYTES), random)
    share_set = ShareSet(shares[0].set_id, threshold, tuple(share.commitment() for share in shares))
    for some in (shares[:threshold], shares[-threshold:]):
        if combine(some) != secret:
            raise AssertionError("the shares do not restore what was shared")
    return Deal(Secret(secret), share_set, shares)


def split(
    secret: bytes | bytearray, threshold: int, count: int, set_id: bytes, random: Callable[[int], bytes] = os.urandom
) -> tuple[Share, ...]:
    """Cuts a secret of 32 bytes into shares. Raises ValueError where `size_problem` sees one."""
    if problem := size_problem(threshold, count):
        raise ValueError(problem)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret to be shared has {SECRET_BYTES} bytes")
    terms = [int.from_bytes(secret), *(int.from_bytes(random(SECRET_BYTES)) for _ in range(threshold - 1))]
    return tuple(Share(set_id, threshold, index, _at(terms, index)) for index in range(1, count + 1))


def combine(shares: Sequence[Share]) -> bytearray:
    """What `split` was given, from at least `threshold` different shares of one set; noise from any others.

    Raises ValueError for too few shares, or two of one index.
    """
    indices = [share.index for share in shares]
    if len(set(indices)) != len(indices) or 0 in indices:
        raise ValueError("a share was given twice")
    if not shares or len(shares) < shares[0].threshold:
        raise ValueError("there are too few shares")
    total = 0
    for share in shares:
        total ^= _times(int.from_bytes(share.body), _weight(share.index, indices))
    return bytearray(total.to_bytes(SECRET_BYTES))


def _at(terms: Sequence[int], point: int) -> bytes:
    """The value of the 32 polynomials at a public point (Horner's rule)."""
    value = 0
    for term in reversed(terms):
        value = _times(value, point) ^ term
    return value.to_bytes(SECRET_BYTES)


def _weight(index: int, indices: Sequence[int]) -> int:
    """Lagrange's weight of one share for the value at 0. All numbers in it are public."""
    above, below = 1, 1
    for other in indices:
        if other != index:
            above = _times(above, other)
            below = _times(below, other ^ index)
    return _times(above, _inverse(below))


def _inverse(number: int) -> int:
    """`number` to the power of 254: its inverse in GF(2^8)."""
    result = number
    for _ in range(6):
        result = _times(_times(result, result), number)
    return _times(result, result)


def _times(lanes: int, factor: int) -> int:
    """Each byte of `lanes` times a *public* factor."""
    product = 0
    for bit in range(8):
        if factor >> bit & 1:
            product ^= lanes
        lanes = (lanes & _LOW_BITS) << 1 ^ (lanes >> 7 & _ONES) * _REDUCTION
    return product
