"""The master key of a store: 32 random bytes that exist outside of a process only in wrapped form.

It is wrapped with AES-256-GCM under a key that comes from a passphrase (Argon2id, RFC 9106) or from a key file (32
random bytes, HKDF). The parameters and the cluster id are associated data, so none can be changed unnoticed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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

KEY_BYTES = 32
NONCE_BYTES = 12
_SALT_BYTES = 16
_MAX_PASSPHRASE_BYTES = 1024
_LABEL = b"sealgate master key v1"


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

    key: Secret[bytes]


Unlock = Passphrase | KeyFile


class WrappedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The master key as it stands in the store's header; nothing in it is secret."""

    unlock: str
    """"passphrase" or "key-file"."""
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes
    nonce: bytes
    wrapped: bytes

    def associated_data(self, cluster_id: bytes) -> bytes:
        """Everything but the wrapped key itself, and the cluster it belongs to."""
        cost = (self.memory_kib, self.passes, self.lanes)
        return msgspec.msgpack.encode((_LABEL, cluster_id, self.unlock, *cost, self.salt))


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
    data = files.read_private(path, 4096)
    if len(data) != KEY_BYTES:
        sentence = (
            f"{path} has {len(data)} bytes; a key file has {KEY_BYTES}: make one with `sealgate vault init --generate`"
        )
        raise StoreError(StoreReason.INVALID, sentence)
    return KeyFile(Secret(data))


def create_key_file(path: Path) -> KeyFile:
    """Make a new key file of mode 0600. Raises StoreError; never overwrites."""
    data = os.urandom(KEY_BYTES)
    files.create_private(path, data)
    return KeyFile(Secret(data))


def wrap(master: Secret[bytes], unlock: Unlock, cluster_id: bytes) -> WrappedKey:
    """Wrap a master key for the header of a store."""
    cost = unlock.cost if isinstance(unlock, Passphrase) else Argon2Cost(0, 0, 0)
    header = WrappedKey(
        unlock="passphrase" if isinstance(unlock, Passphrase) else "key-file",
        memory_kib=cost.memory_kib,
        passes=cost.passes,
        lanes=cost.lanes,
        salt=os.urandom(_SALT_BYTES),
        nonce=os.urandom(NONCE_BYTES),
        wrapped=b"",
    )
    sealer = AESGCM(_wrapping_key(header, unlock).reveal())
    sealed = sealer.encrypt(header.nonce, master.reveal(), header.associated_data(cluster_id))
    return msgspec.structs.replace(header, wrapped=sealed)


def unwrap(header: WrappedKey, unlock: Unlock, cluster_id: bytes) -> Secret[bytes]:
    """The master key. Raises StoreError: wrong kind of secret, wrong secret, or a header that was altered."""
    wanted = "passphrase" if isinstance(unlock, Passphrase) else "key-file"
    if header.unlock in ("passphrase", "key-file") and header.unlock != wanted:
        raise StoreError(StoreReason.WRONG_KEY, f"the store is opened by a {header.unlock}, and a {wanted} was given")
    opener = AESGCM(_wrapping_key(header, unlock).reveal())
    try:
        return Secret(opener.decrypt(header.nonce, header.wrapped, header.associated_data(cluster_id)))
    except (InvalidTag, ValueError):
        what = "the passphrase is wrong" if wanted == "passphrase" else "the key file is not this store's"
        raise StoreError(StoreReason.WRONG_KEY, f"{what} (or the store's header was altered)") from None


def _wrapping_key(header: WrappedKey, unlock: Unlock) -> Secret[bytes]:
    if isinstance(unlock, KeyFile):
        derive = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=header.salt, info=_LABEL)
        return Secret(derive.derive(unlock.key.reveal()))
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
    return Secret(derived)
