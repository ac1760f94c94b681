"""The keys of a token: finds its private keys, and the public key of each.

Reads only. A private key is known by the SKI of its public key, never by its handle: handles belong to a session, and a
token may give the same one to another key later.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

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
_OWN_ID = "give each key pair an id of its own"

FEW = 16
"""Private keys whose public keys are searched one by one: with more, a search each takes a token too long."""

Attributes = Mapping[int, bytes]
Companions: TypeAlias = Callable[[int, Attributes], Sequence[int]]
"""Objects of a class that belong to the private key with these attributes."""


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
    is_told: bool
    """The private key itself tells its public key; else an object of the same CKA_ID or label does."""


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
    unclear: set[bytes] = set()
    handles = cryptoki.find(session, private_template(wanted))
    beside = _Register(cryptoki, session).of if len(handles) > FEW else None
    for handle in handles:
        try:
            key = read_key(cryptoki, session, handle, beside)
            if (other := keys.get(key.ski)) is None:
                keys[key.ski] = key
            elif _are_alike(key, other):
                unclear.add(key.ski)
            else:
                raise Unusable("is in the token twice; the other one is used")
        except Unusable as problem:
            left_out.append(f"{_name_of(cryptoki, session, handle)} {problem}")
    for ski in unclear:
        left_out.append(f"{_shown(keys.pop(ski))} has the CKA_ID of another, and one public key for both: {_OWN_ID}")
    return Listing(tuple(keys.values()), tuple(left_out))


def _are_alike(key: TokenKey, other: TokenKey) -> bool:
    """Whether one public key object was taken for that of both: then it may be that of either."""
    if key.is_told or other.is_told:
        return False
    return key.found.id == other.found.id and (bool(key.found.id) or key.label == other.label)


def private_template(wanted: ObjectMatch) -> Template:
    """What to search for: private keys of the token, not those of a session."""
    template: dict[int, Value] = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True}
    if wanted.label is not None:
        template[c.CKA_LABEL] = wanted.label.encode()
    if wanted.id is not None:
        template[c.CKA_ID] = wanted.id
    return template


def find_key(cryptoki: Cryptoki, session: int, key: TokenKey) -> int | None:
    """The handle that a key has in this session, or None. Its public key is compared. Raises CryptokiError.

    None also where another private key has come that can't be told from it: a signature could be that one's.
    """
    template: dict[int, Value] = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, c.CKA_TOKEN: True}
    if key.found.id:
        template[c.CKA_ID] = key.found.id
    elif key.label:
        template[c.CKA_LABEL] = key.label
    first: int | None = None
    for handle in cryptoki.find(session, template):
        try:
            there = read_key(cryptoki, session, handle)
        except Unusable:
            continue
        if there.ski != key.ski:
            continue
        if there.is_told:
            return handle
        if first is not None and _are_alike(there, key):
            return None
        first = handle if first is None else first
    return first


def read_key(cryptoki: Cryptoki, session: int, handle: int, beside: Companions | None = None) -> TokenKey:
    """What a private key is; `beside` finds what belongs to it, else a search does. Raises Unusable, CryptokiError."""
    told = cryptoki.attributes(session, handle, _COMMON)
    kind = number_of(told.get(c.CKA_KEY_TYPE, b""))
    if kind != c.CKK_RSA and kind not in _EC_KINDS:
        raise Unusable("is neither RSA nor EC nor Ed25519")
    if told.get(c.CKA_SIGN, _TRUE) != _TRUE:
        raise Unusable("may not sign (CKA_SIGN)")
    if told.get(c.CKA_ALWAYS_AUTHENTICATE, b"\0") == _TRUE:
        raise Unusable("wants the PIN before every signature (CKA_ALWAYS_AUTHENTICATE)")
    parts = cryptoki.attributes(session, handle, _RSA_PARTS if kind == c.CKK_RSA else _EC_PARTS)
    told = {**told, **parts}
    beside = beside or (lambda object_class, of: companions(cryptoki, session, object_class, of))
    try:
        own = _from_parts(told, is_rsa=kind == c.CKK_RSA)
        public = own or _public_key(cryptoki, session, kind, told, beside)
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
    return TokenKey(found, label, public.signature_bytes, public.ski, public.type.family, own is not None)


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
    name = _name_in(told)
    if name is None:
        return []
    return cryptoki.find(session, {c.CKA_CLASS: kind, c.CKA_TOKEN: True, name[0]: name[1]})


def _name_in(told: Attributes) -> tuple[int, bytes] | None:
    """What joins a private key with its public key and certificates."""
    for kind in (c.CKA_ID, c.CKA_LABEL):
        if told.get(kind):
            return kind, told[kind]
    return None


class _Register:
    """All public keys and certificates of a token by what joins them, read once: a search for each takes a token with
    a thousand keys (SoftHSM2) longer than anybody waits."""

    def __init__(self, cryptoki: Cryptoki, session: int) -> None:
        self._cryptoki = cryptoki
        self._session = session
        self._known: dict[int, Mapping[tuple[int, bytes], Sequence[int]]] = {}

    def of(self, object_class: int, told: Attributes) -> Sequence[int]:
        """As `companions`."""
        name = _name_in(told)
        if name is None:
            return ()
        if object_class not in self._known:
            self._known[object_class] = self._all(object_class)
        return self._known[object_class].get(name, ())

    def _all(self, object_class: int) -> Mapping[tuple[int, bytes], Sequence[int]]:
        found: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for handle in self._cryptoki.find(self._session, {c.CKA_CLASS: object_class, c.CKA_TOKEN: True}):
            for name in self._cryptoki.attributes(self._session, handle, (c.CKA_ID, c.CKA_LABEL)).items():
                found[name].append(handle)
        return found


def certificate_key(cryptoki: Cryptoki, session: int, handle: int) -> PublicKey:
    """The public key in a certificate object. Raises TranslationError, CryptokiError."""
    value = cryptoki.attributes(session, handle, (c.CKA_VALUE,)).get(c.CKA_VALUE, b"")
    try:
        return public_key_of_spki(public_key_of_certificate(value))
    except DerError:
        raise TranslationError("its certificate is malformed") from None


def _public_key(cryptoki: Cryptoki, session: int, kind: int, told: Attributes, beside: Companions) -> PublicKey:
    """From the private key's public key object, else from a certificate. Raises Unusable and the others."""
    for object_class, read in ((c.CKO_PUBLIC_KEY, public_key_of), (c.CKO_CERTIFICATE, certificate_key)):
        candidates: dict[bytes, PublicKey] = {}
        for handle in beside(object_class, told):
            try:
                candidate = read(cryptoki, session, handle)
            except TranslationError:
                continue
            if _fits(candidate, kind, told):
                candidates[candidate.ski] = candidate
        if len(candidates) > 1:
            raise Unusable(f"shares its CKA_ID with several public keys; {_OWN_ID}")
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
    return _named(told.get(c.CKA_LABEL, b"").decode("utf-8", "replace"), told.get(c.CKA_ID, b""))


def _shown(key: TokenKey) -> str:
    return _named(key.found.label, key.found.id)


def _named(label: str, raw_id: bytes) -> str:
    identifier = raw_id.hex()[:64]
    shown = "".join(character if character.isprintable() else "?" for character in label[:64])
    return f'the private key "{shown}" (CKA_ID {identifier or "empty"})'
