"""The keys of a token: finds its private keys, and the public key of each.

Reads only. A private key is known by the SKI of its public key, never by its handle: handles belong to a session, and a
token may give the same one to another key later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki
from hsm.backends.pkcs11.der import DerError, public_key_of_certificate
from hsm.backends.pkcs11.messages import FoundKey, ObjectMatch
from hsm.backends.pkcs11.structures import Template, Value, number_of
from hsm.backends.pkcs11.translate import (
    PublicKey,
    TranslationError,
    curve_of,
    ec_public_key,
    public_key_of_spki,
    rsa_public_key,
)
from hsm.wire.schemes import KeyFamily

_EC_KINDS = (c.CKK_EC, c.CKK_EC_EDWARDS)
_COMMON = (
    *(c.CKA_KEY_TYPE, c.CKA_LABEL, c.CKA_ID, c.CKA_SIGN, c.CKA_LOCAL, c.CKA_EXTRACTABLE),
    *(c.CKA_ALWAYS_AUTHENTICATE, c.CKA_PUBLIC_KEY_INFO),
)
_RSA_PARTS = (c.CKA_MODULUS, c.CKA_PUBLIC_EXPONENT)
_EC_PARTS = (c.CKA_EC_PARAMS, c.CKA_EC_POINT)
_TRUE = b"\1"

Attributes = Mapping[int, bytes]


class Unusable(Exception):
    """A private key can't be used. The text says why, as the end of a sentence about it."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A private key that can be used, and what is needed to find it again."""

    found: FoundKey
    label: bytes
    """CKA_LABEL as it stands in the token."""
    signature_bytes: int
    """Length of a signature as the token gives it."""
    ski: bytes
    family: KeyFamily


@dataclass(frozen=True, slots=True)
class Listing:
    """The private keys of a token."""

    keys: tuple[TokenKey, ...]
    left_out: tuple[str, ...]
    """A sentence for each that can't be used."""


def list_keys(cryptoki: Cryptoki, session: int, wanted: ObjectMatch) -> Listing:
    """All private keys that fit `wanted`. The session must be logged in. Raises CryptokiError."""
    keys: dict[bytes, TokenKey] = {}
    left_out = []
    for handle in cryptoki.find(session, private_template(wanted)):
        try:
            key = read_key(cryptoki, session, handle)
            if key.ski in keys:
                raise Unusable("is in the token twice; the other one is used")
            keys[key.ski] = key
        except Unusable as problem:
            left_out.append(f"{_name_of(cryptoki, session, handle)} {problem}")
    return Listing(tuple(keys.values()), tuple(left_out))


def private_template(wanted: ObjectMatch) -> Template:
    """What to search for: private keys of the token, not those of a session."""
    template: dict[int, Value] = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True}
    if wanted.label is not None:
        template[c.CKA_LABEL] = wanted.label.encode()
    if wanted.id is not None:
        template[c.CKA_ID] = wanted.id
    return template


def find_key(cryptoki: Cryptoki, session: int, key: TokenKey) -> int | None:
    """The handle that a key has in this session, or None. Its public key is compared. Raises CryptokiError."""
    template: dict[int, Value] = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True}
    if key.found.id:
        template[c.CKA_ID] = key.found.id
    elif key.label:
        template[c.CKA_LABEL] = key.label
    for handle in cryptoki.find(session, template):
        try:
            if read_key(cryptoki, session, handle).ski == key.ski:
                return handle
        except Unusable:
            continue
    return None


def read_key(cryptoki: Cryptoki, session: int, handle: int) -> TokenKey:
    """What a private key is. Raises Unusable, CryptokiError."""
    told = cryptoki.attributes(session, handle, _COMMON)
    kind = number_of(told.get(c.CKA_KEY_TYPE, b""))
    if kind != c.CKK_RSA and kind not in _EC_KINDS:
        raise Unusable("is neither RSA nor EC nor Ed25519")
    if told.get(c.CKA_SIGN, _TRUE) != _TRUE:
        raise Unusable("may not sign (CKA_SIGN)")
    if told.get(c.CKA_ALWAYS_AUTHENTICATE, b"\0") == _TRUE:
        raise Unusable("wants the PIN before every signature (CKA_ALWAYS_AUTHENTICATE)")
    parts = cryptoki.attributes(session, handle, _RSA_PARTS if kind == c.CKK_RSA else _EC_PARTS)
    try:
        public = _public_key(cryptoki, session, kind, {**told, **parts})
    except TranslationError as error:
        raise Unusable(f"is of no use here: {error}") from None
    label = told.get(c.CKA_LABEL, b"")
    found = FoundKey(
        ski=public.ski,
        type=public.type,
        label=label.decode("utf-8", "replace"),
        id=told.get(c.CKA_ID, b""),
        public_key=public.spki,
        is_local=told.get(c.CKA_LOCAL) == _TRUE,
        is_extractable=told.get(c.CKA_EXTRACTABLE) == _TRUE,
    )
    return TokenKey(found, label, public.signature_bytes, public.ski, public.type.family)


def public_key_of(cryptoki: Cryptoki, session: int, handle: int) -> PublicKey:
    """What a public key object holds. Raises TranslationError, CryptokiError."""
    told = cryptoki.attributes(session, handle, (c.CKA_KEY_TYPE, c.CKA_PUBLIC_KEY_INFO))
    kind = number_of(told.get(c.CKA_KEY_TYPE, b""))
    parts = cryptoki.attributes(session, handle, _RSA_PARTS if kind == c.CKK_RSA else _EC_PARTS)
    public = _from_parts({**told, **parts}, is_rsa=kind == c.CKK_RSA)
    if public is None:
        raise TranslationError("it does not tell its public key")
    return public


def companions(cryptoki: Cryptoki, session: int, kind: int, told: Attributes) -> list[int]:
    """Objects of class `kind` that belong to a private key: those with its CKA_ID, or without one, its label."""
    template: dict[int, Value] = {c.CKA_CLASS: kind, c.CKA_TOKEN: True}
    if told.get(c.CKA_ID):
        template[c.CKA_ID] = told[c.CKA_ID]
    elif told.get(c.CKA_LABEL):
        template[c.CKA_LABEL] = told[c.CKA_LABEL]
    else:
        return []
    return cryptoki.find(session, template)


def certificate_key(cryptoki: Cryptoki, session: int, handle: int) -> PublicKey:
    """The public key in a certificate object. Raises TranslationError, CryptokiError."""
    value = cryptoki.attributes(session, handle, (c.CKA_VALUE,)).get(c.CKA_VALUE, b"")
    try:
        return public_key_of_spki(public_key_of_certificate(value))
    except DerError:
        raise TranslationError("its certificate is malformed") from None


def _public_key(cryptoki: Cryptoki, session: int, kind: int, told: Attributes) -> PublicKey:
    """From the private key itself, else its public key object, else a certificate. Raises Unusable and the others."""
    public = _from_parts(told, is_rsa=kind == c.CKK_RSA)
    if public is not None:
        return public
    for object_class, read in ((c.CKO_PUBLIC_KEY, public_key_of), (c.CKO_CERTIFICATE, certificate_key)):
        candidates: dict[bytes, PublicKey] = {}
        for handle in companions(cryptoki, session, object_class, told):
            try:
                candidate = read(cryptoki, session, handle)
            except TranslationError:
                continue
            if _fits(candidate, kind, told):
                candidates[candidate.ski] = candidate
        if len(candidates) > 1:
            raise Unusable("shares its CKA_ID with several public keys; give each key pair an id of its own")
        if candidates:
            return candidates.popitem()[1]
    raise Unusable("has no public key: neither itself nor a public key object or certificate of its CKA_ID tells it")


def _from_parts(told: Attributes, *, is_rsa: bool) -> PublicKey | None:
    """The public key in the attributes of one object; None where they do not tell it. Raises TranslationError."""
    if is_rsa and told.get(c.CKA_MODULUS) and told.get(c.CKA_PUBLIC_EXPONENT):
        return rsa_public_key(told[c.CKA_MODULUS], told[c.CKA_PUBLIC_EXPONENT])
    if not is_rsa and told.get(c.CKA_EC_PARAMS) and told.get(c.CKA_EC_POINT):
        return ec_public_key(told[c.CKA_EC_PARAMS], told[c.CKA_EC_POINT])
    if info := told.get(c.CKA_PUBLIC_KEY_INFO):  # SoftHSM 2.6 has it, empty
        public = public_key_of_spki(info)
        return public if (public.type.family is KeyFamily.RSA) is is_rsa else None
    return None


def _fits(public: PublicKey, kind: int, told: Attributes) -> bool:
    """Whether a public key may be that of a private key of this kind that tells these attributes."""
    if (public.type.family is KeyFamily.RSA) is not (kind == c.CKK_RSA):
        return False
    if modulus := told.get(c.CKA_MODULUS, b"").lstrip(b"\0"):
        return modulus in public.spki
    if parameters := told.get(c.CKA_EC_PARAMS):
        return curve_of(parameters) is public.type
    return True


def _name_of(cryptoki: Cryptoki, session: int, handle: int) -> str:
    """A private key that can't be used, as people know it."""
    told = cryptoki.attributes(session, handle, (c.CKA_LABEL, c.CKA_ID))
    label = told.get(c.CKA_LABEL, b"").decode("utf-8", "replace")
    identifier = told.get(c.CKA_ID, b"").hex()[:64]
    shown = "".join(character if character.isprintable() else "?" for character in label[:64])
    return f'the private key "{shown}" (CKA_ID {identifier or "empty"})'
