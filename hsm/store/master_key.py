"""The master key of a store: 32 random bytes that exist outside of a process only in wrapped form.

It is wrapped with AES-256-GCM under a key that comes from one of four things: a passphrase (Argon2id, RFC 9106), a key
file (32 random bytes, HKDF), a secret that people hold in shares (HKDF), or what a secret key inside an HSM computes
(HMAC-SHA-256, then HKDF). The parameters and the cluster id are associated data, so none can be changed unnoticed.

Why the HSM only computes an HMAC, and does not unwrap: every token can do it in the same way. AES-GCM differs between
makers in who chooses the nonce, OAEP in its hash and label, and C_UnwrapKey would leave the master key in the token.

Bytes that belong to this code are bytearrays and are wiped after use; copies inside libraries are not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec
from argon2.exceptions import Argon2Error
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsm.shared.logs import Secret
from hsm.store import files
from hsm.store.errors import StoreError, StoreReason
from hsm.store.shares import ShareSet

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
_SALT_BYTES = 16
_MAX_PASSPHRASE_BYTES = 1024
_LABEL = b"sealgate master key v1"
_TOKEN_LABEL = b"sealgate vault wrapping key v1"

Mac: TypeAlias = Callable[[bytes], bytes]
"""HMAC-SHA-256 with a secret key that stays where it is, such as in an HSM. Blocks; raises what its maker says."""
Bytes: TypeAlias = Secret[bytes] | Secret[bytearray]


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """What guessing one passphrase costs. The default is RFC 9106's second recommendation: 64 MiB, 3 passes."""

    memory_kib: int = 65536
    passes: int = 3
    lanes: int = 4

    def check(self) -> None:
        """Raise StoreError outside the bounds: a store file must not be able to exhaust this machine."""
        is_sane = 1 <= self.lanes <= 16 and 8 * self.lanes <= self.memory_kib <= 1048576 and 1 <= self.passes <= 32
        if not is_sane:
            raise StoreError(
                StoreReason.TAMPERED, "the store's passphrase parameters are out of bounds; it was altered"
            )


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Opens a store by a passphrase. `cost` counts when a store is created; later it is read from the store."""

    text: Secret[bytes]
    cost: Argon2Cost = Argon2Cost()


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Opens a store by the 32 bytes of a key file."""

    key: Bytes


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """Opens a store by the secret that its shares restore."""

    secret: Bytes
    share_set: ShareSet


@dataclass(frozen=True, slots=True)
class TokenKey:
    """Opens a store by a secret key in a PKCS#11 token."""

    name: str
    """How people call the key."""
    mac: Mac = field(repr=False)


Unlock: TypeAlias = Passphrase | KeyFile | SharedSecret | TokenKey

_KINDS: dict[type, str] = {
    Passphrase: "passphrase",
    KeyFile: "key-file",
    SharedSecret: "shares",
    TokenKey: "pkcs11",
}
_NAMES = {
    "passphrase": "a passphrase",
    "key-file": "a key-file",
    "shares": "shares",
    "pkcs11": "a wrapping key in a PKCS#11 token",
}
_NOT_THIS_STORES = {
    "passphrase": "the passphrase is wrong",
    "key-file": "the key file is not this store's",
    "shares": "the shares are not this store's",
    "pkcs11": "the token's wrapping key is not the one that this store was made with",
}


class WrappedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The master key as it stands in the store's header; nothing in it is secret."""

    unlock: str
    """"passphrase", "key-file", "shares" or "pkcs11"."""
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes
    nonce: bytes
    wrapped: bytes
    share_set: ShareSet | None = None
    """Of unlock "shares"; stores of the first format have none, and neither does their JSON."""
    token_key: str = ""
    """Of unlock "pkcs11": how the wrapping key was called."""

    @property
    def needs_newer_format(self) -> bool:
        """Whether programs of the first store format would not understand it."""
        return self.share_set is not None or bool(self.token_key)

    @property
    def opened_by(self) -> str:
        """For people."""
        if self.share_set is not None:
            return f"{self.share_set.threshold} of {self.share_set.count} shares of set {self.share_set.name}"
        name = _NAMES.get(self.unlock, "something unknown")
        return f"{name} ({self.token_key})" if self.token_key else name

    def associated_data(self, cluster_id: bytes) -> bytes:
        """Everything but the wrapped key itself, and the cluster it belongs to."""
        cost = (self.memory_kib, self.passes, self.lanes)
        newer = (self.share_set, self.token_key) if self.needs_newer_format else ()
        return msgspec.msgpack.encode((_LABEL, cluster_id, self.unlock, *cost, self.salt, *newer))


def passphrase_from_file(path: Path) -> Passphrase:
    """The first line of a private file. Raises StoreError."""
    line = files.read_private(path, _MAX_PASSPHRASE_BYTES + 2).split(b"\n", 1)[0].rstrip(b"\r")
    return passphrase(line, f"{path}: ")


def passphrase(text: bytes, source: str = "") -> Passphrase:
    """Check and wrap a passphrase; `source` begins the error. Raises StoreError."""
    if not text.strip():
        raise StoreError(StoreReason.INVALID, f"{source}the passphrase is empty; it must stand on the first line")
    if len(text) > _MAX_PASSPHRASE_BYTES:
        raise StoreError(StoreReason.INVALID, f"{source}the passphrase is longer than {_MAX_PASSPHRASE_BYTES} bytes")
    return Passphrase(Secret(text))


def key_file(path: Path) -> KeyFile:
    """Read a key file: exactly 32 bytes, private to its owner. Raises StoreError."""
    data = files.read_secret(path, 4096)
    if len(data) != KEY_BYTES:
        sentence = (
            f"{path} has {len(data)} bytes; a key file has {KEY_BYTES}: make one with `sealgate vault init --generate`"
        )
        raise StoreError(StoreReason.INVALID, sentence)
    return KeyFile(Secret(data))


def create_key_file(path: Path) -> KeyFile:
    """Make a new key file of mode 0600. Raises StoreError; never overwrites."""
    data = bytearray(os.urandom(KEY_BYTES))
    files.create_private(path, data)
    return KeyFile(Secret(data))


def wipe(secret: Bytes) -> None:
    """Overwrite a secret where it is ours to write; immutable bytes only lose their owner."""
    value = secret.reveal()
    if isinstance(value, bytearray):
        value[:] = bytes(len(value))


def forget(unlock: Unlock) -> None:
    """Wipe what opened a store; it opens nothing any more."""
    if isinstance(unlock, KeyFile):
        wipe(unlock.key)
    elif isinstance(unlock, SharedSecret):
        wipe(unlock.secret)


def wrap(master: Bytes, unlock: Unlock, cluster_id: bytes) -> WrappedKey:
    """Wrap a master key for the header of a store."""
    cost = unlock.cost if isinstance(unlock, Passphrase) else Argon2Cost(0, 0, 0)
    header = WrappedKey(
        unlock=_KINDS[type(unlock)],
        memory_kib=cost.memory_kib,
        passes=cost.passes,
        lanes=cost.lanes,
        salt=os.urandom(_SALT_BYTES),
        nonce=os.urandom(NONCE_BYTES),
        wrapped=b"",
        share_set=unlock.share_set if isinstance(unlock, SharedSecret) else None,
        token_key=unlock.name if isinstance(unlock, TokenKey) else "",
    )
    key = _wrapping_key(header, unlock, cluster_id)
    try:
        sealed = AESGCM(key).encrypt(header.nonce, master.reveal(), header.associated_data(cluster_id))
    finally:
        wipe(Secret(key))
    return msgspec.structs.replace(header, wrapped=sealed)


def unwrap(header: WrappedKey, unlock: Unlock, cluster_id: bytes) -> Secret[bytearray]:
    """The master key, to be wiped after use.

    Raises StoreError: wrong kind of secret, wrong secret, or a header that was altered; and what a `Mac` raises.
    """
    wanted = _KINDS[type(unlock)]
    if header.unlock in _NAMES and header.unlock != wanted:
        sentence = f"the store is opened by {_NAMES[header.unlock]}, and {_NAMES[wanted]} was given"
        raise StoreError(StoreReason.WRONG_KEY, sentence)
    key = _wrapping_key(header, unlock, cluster_id)
    master = bytearray(KEY_BYTES)
    try:
        AESGCM(key).decrypt_into(header.nonce, header.wrapped, header.associated_data(cluster_id), master)
    except (InvalidTag, ValueError):
        what = _NOT_THIS_STORES[wanted] + (f" ({header.token_key})" if header.token_key else "")
        raise StoreError(StoreReason.WRONG_KEY, f"{what} (or the store's header was altered)") from None
    finally:
        wipe(Secret(key))
    return Secret(master)


def _wrapping_key(header: WrappedKey, unlock: Unlock, cluster_id: bytes) -> bytearray:
    match unlock:
        case Passphrase():
            return _stretched(header, unlock)
        case KeyFile():
            return _derived(unlock.key.reveal(), header.salt)
        case SharedSecret():
            return _derived(unlock.secret.reveal(), header.salt)
        case TokenKey():
            question = msgspec.msgpack.encode((_TOKEN_LABEL, cluster_id, header.salt))
            return _derived(unlock.mac(question), header.salt)


def _derived(secret: bytes | bytearray, salt: bytes) -> bytearray:
    key = bytearray(KEY_BYTES)
    HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=_LABEL).derive_into(secret, key)
    return key


def _stretched(header: WrappedKey, unlock: Passphrase) -> bytearray:
    cost = Argon2Cost(header.memory_kib, header.passes, header.lanes)
    cost.check()
    try:
        derived = hash_secret_raw(
            unlock.text.reveal(),
            header.salt,
            time_cost=cost.passes,
            memory_cost=cost.memory_kib,
            parallelism=cost.lanes,
            hash_len=KEY_BYTES,
            type=Type.ID,
        )
    except Argon2Error as error:
        raise StoreError(StoreReason.TAMPERED, f"the passphrase can't be stretched: {error}") from None
    return bytearray(derived)
