"""What a node and its token worker (the process that runs the HSM maker's library) say to each other.

Values only. Each side sends frames of msgpack over one socket pair: requests go to the worker, answers and notices come
back, in any order; `id` joins them. Bytes that are secret (the PIN, a key to import) have no `repr`.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from hsm.wire.schemes import KeyType


class TokenMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which token of the library is meant: all given attributes must fit (RFC 7512 2.3); None fits any."""

    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    slot_id: int | None = None
    slot_description: str | None = None
    slot_manufacturer: str | None = None
    library_description: str | None = None
    library_manufacturer: str | None = None
    library_version: str | None = None
    """As RFC 7512 writes it: "2.6", or "2" for 2.0."""


class ObjectMatch(msgspec.Struct, frozen=True, kw_only=True):
    """Which keys of the token are meant; None fits any."""

    label: str | None = None
    id: bytes | None = None


class _Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=True):
    """Base of requests."""

    id: int


class Open(_Request, frozen=True, kw_only=True):
    """Load the library, find the token, log in, list the keys and open the sessions. Sent once, first. -> Opened"""

    module: str
    token: TokenMatch
    objects: ObjectMatch
    pin: bytes | None
    """None where the token needs no login."""
    sessions: int
    """Signing threads, each with a session of its own; 0 for a worker that only manages keys."""

    def __repr__(self) -> str:
        return f"Open({self.module!r}, {self.token!r})"


class Sign(_Request, frozen=True, kw_only=True):
    """-> Signed"""

    key: bytes
    """SKI."""
    scheme: str
    """A name of `hsm.wire.schemes`."""
    payload: bytes


class ListKeys(_Request, frozen=True, kw_only=True):
    """-> KeysFound"""


class Generate(_Request, frozen=True, kw_only=True):
    """Make a key pair: TOKEN, PRIVATE, SENSITIVE, SIGN, not EXTRACTABLE; CKA_ID becomes the SKI. -> KeysFound (one)"""

    type: KeyType
    label: str


class Import(_Request, frozen=True, kw_only=True):
    """Put a private key (PKCS#8 DER) into the token, not to be read again. -> KeysFound (one)"""

    label: str
    private_key: bytes

    def __repr__(self) -> str:
        return f"Import({self.label!r})"


class Destroy(_Request, frozen=True, kw_only=True):
    """Delete a private key, its public key and its certificates, for ever. -> Done"""

    key: bytes


class Mac(_Request, frozen=True, kw_only=True):
    """HMAC-SHA-256 of `data` with the secret key of this label; with `make`, a missing key is made first. -> Signed"""

    label: str
    data: bytes
    make: bool = False


class Ping(_Request, frozen=True, kw_only=True):
    """Is somebody there? Answered by the thread that reads requests, whatever the token does. -> Done"""


Request: TypeAlias = Open | Sign | ListKeys | Generate | Import | Destroy | Mac | Ping


class FoundKey(msgspec.Struct, frozen=True):
    """A private key of the token whose public key is known."""

    ski: bytes
    type: KeyType
    label: str
    id: bytes
    """CKA_ID."""
    public_key: bytes
    """SubjectPublicKeyInfo, DER."""
    is_local: bool
    """Made by the token (CKA_LOCAL), so that no copy was ever outside of it."""
    is_extractable: bool
    """The token would give it out wrapped (CKA_EXTRACTABLE)."""


class _Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag=True):
    """Base of answers."""

    id: int


class Opened(_Answer, frozen=True, kw_only=True):
    """The token is open and the sessions are logged in."""

    keys: tuple[FoundKey, ...]
    left_out: tuple[str, ...]
    """A sentence for each private key that can't be used: no public key, an unknown type, twice the same."""
    token: str
    """Label of the token, as people know it."""
    serial: str
    library: str
    """Description and version of the library."""


class KeysFound(_Answer, frozen=True, kw_only=True):
    """The keys asked for, or made."""

    keys: tuple[FoundKey, ...]
    left_out: tuple[str, ...] = ()


class Signed(_Answer, frozen=True, kw_only=True):
    """The signature: ECDSA in DER."""

    signature: bytes


class Done(_Answer, frozen=True, kw_only=True):
    """It is done."""


class Failed(_Answer, frozen=True, kw_only=True):
    """It could not be done."""

    kind: str
    """A value of `hsm.backends.pkcs11.results.Failure`."""
    rv: int
    """CKR_ code of the last call; 0 where none was at fault."""
    call: str
    """Name of the call, such as "C_Sign"; "" where none was at fault."""
    detail: str
    """A sentence for people; holds no secret."""


Answer: TypeAlias = Opened | KeysFound | Signed | Done | Failed
