"""What a vault's key is: its types, its record in the store, and its public description.

Only this module turns private keys into bytes and back, and only for the store, which encrypts them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, cast

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509 import SubjectKeyIdentifier

from hsm.backends.attributes import KeyAttributes, attributes_problem
from hsm.backends.vault.errors import VaultError, VaultReason
from hsm.wire.schemes import KeyType

PrivateKey: TypeAlias = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey

SKI_BYTES = 20
MAX_PEM_BYTES = 64 * 1024
_LABEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_HEX_SKI = re.compile(r"^[0-9A-Fa-f]{40}\Z", re.ASCII)
_RSA_BITS = {KeyType.RSA_2048: 2048, KeyType.RSA_3072: 3072, KeyType.RSA_4096: 4096}
_CURVES = {KeyType.P256: SECP256R1(), KeyType.P384: SECP384R1(), KeyType.P521: SECP521R1()}
_TYPE_OF_BITS = {bits: type_ for type_, bits in _RSA_BITS.items()}
_TYPE_OF_CURVE = {curve.name: type_ for type_, curve in _CURVES.items()}
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192

GENERATED_TYPES = (*_RSA_BITS, *_CURVES, KeyType.ED25519)
"""What `generate` makes."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What anybody may know of a key."""

    ski: bytes
    """SHA-1 of the public key's bit string, 20 bytes: the key's name on the wire and in certificates."""
    type: KeyType
    label: str
    created: datetime
    """UTC: when it was generated or imported."""
    imported: bool
    """It came from outside, so copies may exist there. Never unset."""
    public_key: str
    """PEM."""
    attributes: KeyAttributes


class SealedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key as the store encrypts it. `repr` shows no private bytes."""

    type: str
    label: str
    created: str
    imported: bool
    public_key: str
    private_key: bytes
    """PKCS#8 DER."""
    attributes: KeyAttributes | None = None
    """None for the defaults; older versions knew no others."""

    def __repr__(self) -> str:
        return f"SealedKey({self.type}, {self.label!r})"

    def record(self, ski: bytes) -> KeyRecord:
        """The public part. Raises VaultError for a type of a newer version."""
        try:
            type_ = KeyType(self.type)
        except ValueError:
            sentence = f"key {ski.hex()} has the unknown type {self.type!r}; a newer version made it"
            raise VaultError(VaultReason.INVALID, sentence) from None
        created = datetime.fromisoformat(self.created)
        return KeyRecord(
            ski, type_, self.label, created, self.imported, self.public_key, self.attributes or KeyAttributes()
        )


def seal(
    key: PrivateKey, label: str, attributes: KeyAttributes = KeyAttributes(), *, imported: bool, now: datetime
) -> tuple[KeyRecord, bytes]:
    """A new key's description, and the bytes that the store keeps encrypted. Raises VaultError."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    sealed = SealedKey(
        type=type_of(key).value,
        label=check_label(label),
        created=now.astimezone(UTC).isoformat(timespec="seconds"),
        imported=imported,
        public_key=public,
        private_key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        attributes=_sealed_form(attributes, type_of(key)),
    )
    return sealed.record(ski_of(key)), msgspec.msgpack.encode(sealed)


def seal_again(sealed: SealedKey, attributes: KeyAttributes) -> bytes:
    """The bytes of the same key with other attributes. Raises VaultError."""
    form = _sealed_form(attributes, KeyType(sealed.type))
    return msgspec.msgpack.encode(msgspec.structs.replace(sealed, attributes=form))


def _sealed_form(attributes: KeyAttributes, type_: KeyType) -> KeyAttributes | None:
    checked = check_attributes(attributes, type_)
    return checked if checked != KeyAttributes() else None


def unseal(value: bytes, ski: bytes) -> SealedKey:
    """Decode what `seal` made. Raises VaultError."""
    try:
        return msgspec.msgpack.decode(value, type=SealedKey)
    except msgspec.DecodeError:
        sentence = f"key {ski.hex()} is stored in a form this version does not know; use the version that made it"
        raise VaultError(VaultReason.INVALID, sentence) from None


def private_key_of(sealed: SealedKey, ski: bytes) -> PrivateKey:
    """The key object. Raises VaultError when it is not the key that it is filed as."""
    try:
        # Checked when it was generated or imported, and authenticated since; the check takes many milliseconds.
        key = load_der_private_key(sealed.private_key, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, UnsupportedAlgorithm):
        raise VaultError(VaultReason.TAMPERED, f"key {ski.hex()} can't be decoded") from None
    key = cast("PrivateKey", key)
    if ski_of(key) != ski:
        raise VaultError(VaultReason.TAMPERED, f"key {ski.hex()} holds another key than its name says")
    return key


def generate(type_: KeyType) -> PrivateKey:
    """A new key. Raises VaultError for a type that can't be generated."""
    if type_ in _RSA_BITS:
        return generate_rsa(65537, _RSA_BITS[type_])
    if type_ in _CURVES:
        return generate_private_key(_CURVES[type_])
    if type_ is KeyType.ED25519:
        return Ed25519PrivateKey.generate()
    known = ", ".join(known_type.value for known_type in GENERATED_TYPES)
    raise VaultError(VaultReason.INVALID, f"keys of type {type_.value} can't be generated; choose one of {known}")


def from_pem(pem: bytes, password: bytes | None) -> PrivateKey:
    """Read a key from outside: PKCS#8, PKCS#1 or SEC 1 PEM. Raises VaultError that says what is wrong with it."""
    if len(pem) > MAX_PEM_BYTES:
        raise VaultError(VaultReason.INVALID, "the PEM is larger than 64 KiB; give the file of one private key")
    try:
        key = _checked(load_pem_private_key(pem, password or None, unsafe_skip_rsa_key_validation=True))
    except TypeError:
        sentence = "the key has no password, but one was given" if password else "the key needs a password; give it"
        raise VaultError(VaultReason.INVALID, sentence) from None
    except (ValueError, UnsupportedAlgorithm):
        why = "is the password right?" if password else "give the PEM file of a private key"
        raise VaultError(VaultReason.INVALID, f"no usable private key was found in the PEM; {why}") from None
    return key


def _checked(key: object) -> PrivateKey:
    """A key from outside of a kind and size that the vault keeps, whose parts fit together. Raises ValueError too.

    The size is looked at first: to find out whether the primes of an oversized RSA key are primes takes hours.
    """
    type_of(key)
    if isinstance(key, RSAPrivateKey):
        return key.private_numbers().private_key()
    return cast("PrivateKey", key)


def type_of(key: object) -> KeyType:
    """The type of a key object. Raises VaultError for kinds and sizes that the vault does not keep."""
    if isinstance(key, RSAPrivateKey):
        if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
            sentence = f"RSA keys must have {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits, this one has {key.key_size}"
            raise VaultError(VaultReason.INVALID, sentence)
        return _TYPE_OF_BITS.get(key.key_size, KeyType.RSA_OTHER)
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name in _TYPE_OF_CURVE:
        return _TYPE_OF_CURVE[key.curve.name]
    if isinstance(key, Ed25519PrivateKey):
        return KeyType.ED25519
    raise VaultError(VaultReason.INVALID, "keys must be RSA, EC on P-256, P-384 or P-521, or Ed25519")


def ski_of(key: PrivateKey) -> bytes:
    """The subject key identifier, RFC 5280 4.2.1.2 method 1."""
    return SubjectKeyIdentifier.from_public_key(key.public_key()).digest


def check_label(label: str) -> str:
    """Return a label that may name a key. Raises VaultError."""
    if not _LABEL.match(label):
        sentence = f"{label!r} is not a label; use 1 to 64 letters, digits, dots, dashes and underscores"
        raise VaultError(VaultReason.INVALID, sentence)
    if _HEX_SKI.match(label):
        raise VaultError(VaultReason.INVALID, "a label of 40 hex digits would look like a key's SKI; choose another")
    return label


def check_attributes(attributes: KeyAttributes, type_: KeyType) -> KeyAttributes:
    """Return attributes that a key of this type may have. Raises VaultError."""
    problem = attributes_problem(attributes, type_)
    if problem is not None:
        raise VaultError(VaultReason.INVALID, problem)
    return attributes


def ski_in(reference: str | bytes) -> bytes | None:
    """The SKI when a reference is one (20 bytes, or 40 hex digits); None for a label."""
    if isinstance(reference, bytes):
        return reference
    return bytes.fromhex(reference) if _HEX_SKI.match(reference) else None
