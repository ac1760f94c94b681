"""Changes to a token's keys: generate, import, destroy, and secret keys that make MACs.

Every key that is made here is TOKEN, PRIVATE, SENSITIVE and not EXTRACTABLE, and may sign, nothing else. That is asked
for, then read back: a token that made something weaker has it destroyed. Sessions must be read-write and logged in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.messages import ObjectMatch
from hsm.backends.pkcs11.objects import (
    TokenKey,
    Unusable,
    certificate_key,
    companions,
    find_key,
    list_keys,
    private_template,
    public_key_of,
    read_key,
)
from hsm.backends.pkcs11.private_parts import parts_of
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.structures import MechanismCall, Template, Value
from hsm.backends.pkcs11.translate import TranslationError, curve_parameters, rsa_bits
from hsm.wire.schemes import KeyFamily, KeyType

T = TypeVar("T")

MAX_LABEL_BYTES = 255
_MAC_KEY_BYTES = 32
_MAC_BYTES = 32
_EXPONENT = (65537).to_bytes(3, "big")
_KEPT: Template = {c.CKA_TOKEN: True, c.CKA_PRIVATE: True, c.CKA_SENSITIVE: True, c.CKA_EXTRACTABLE: False}
_SIGNS: Template = {c.CKA_SIGN: True}
_SIGNS_ONLY: Template = {
    **dict.fromkeys((c.CKA_DECRYPT, c.CKA_UNWRAP, c.CKA_SIGN_RECOVER, c.CKA_DERIVE), False),
    **_SIGNS,
}
"""Tokens that do not know one of these attributes are asked again without; what they make is read back anyway."""
_MUST_BE = {c.CKA_PRIVATE: b"\1", c.CKA_SENSITIVE: b"\1", c.CKA_EXTRACTABLE: b"\0", c.CKA_SIGN: b"\1"}
_MUST_NOT_BE_TRUE = (c.CKA_DECRYPT, c.CKA_UNWRAP, c.CKA_SIGN_RECOVER, c.CKA_DERIVE)
_GENERATION = {
    KeyFamily.RSA: c.CKM_RSA_PKCS_KEY_PAIR_GEN,
    KeyFamily.EC: c.CKM_EC_KEY_PAIR_GEN,
    KeyFamily.ED25519: c.CKM_EC_EDWARDS_KEY_PAIR_GEN,
}
_FORM_REFUSED = frozenset(
    (
        *(c.CKR_ATTRIBUTE_VALUE_INVALID, c.CKR_ATTRIBUTE_TYPE_INVALID, c.CKR_TEMPLATE_INCONSISTENT),
        *(c.CKR_DOMAIN_PARAMS_INVALID, c.CKR_CURVE_NOT_SUPPORTED),
    )
)
"""What tokens say to an attribute, or a form of the curve's parameters, that they do not know."""


def generate(cryptoki: Cryptoki, session: int, type_: KeyType, label: str) -> TokenKey:
    """Make a key pair. Its CKA_ID is its SKI, where the token lets that be set. Raises Refused, CryptokiError."""
    name = check_label(label)
    _refuse_taken(cryptoki, session, label)
    identifier = os.urandom(16)  # until the public key, and so the SKI, is known
    shared: Template = {c.CKA_LABEL: name, c.CKA_ID: identifier, c.CKA_TOKEN: True}
    mechanism = MechanismCall(_GENERATION[type_.family])

    def make(form: Template, permissions: Template) -> tuple[int, int]:
        public: Template = {**shared, c.CKA_PRIVATE: False, c.CKA_VERIFY: True, **form}
        private: Template = {**shared, **_KEPT, **permissions}
        return cryptoki.generate_key_pair(session, mechanism, public, private)

    forms = [(form, permissions) for permissions in (_SIGNS_ONLY, _SIGNS) for form in _forms_of(type_)]
    public_handle, private_handle = _first_taken(make, forms)
    return _settled(cryptoki, session, (private_handle, public_handle), label)


def import_key(cryptoki: Cryptoki, session: int, pkcs8: bytes, label: str) -> TokenKey:
    """Put a private key into the token, and its public key beside it. Raises Refused, CryptokiError."""
    name = check_label(label)
    parts = parts_of(pkcs8)
    shared: Template = {c.CKA_LABEL: name, c.CKA_ID: parts.public_key.ski}
    for there in list_keys(cryptoki, session, ObjectMatch()).keys:
        if there.ski == parts.public_key.ski:
            raise Refused(Failure.INVALID, f'the token has this key already, with the label "{there.found.label}"')
    _refuse_taken(cryptoki, session, label)
    private: Template = {c.CKA_CLASS: c.CKO_PRIVATE_KEY, **parts.private, **shared, **_KEPT}
    public: Template = {
        c.CKA_CLASS: c.CKO_PUBLIC_KEY,
        c.CKA_TOKEN: True,
        c.CKA_PRIVATE: False,
        c.CKA_VERIFY: True,
        **parts.public,
        **shared,
    }
    made: list[int] = []
    try:
        forms = [(private, _SIGNS_ONLY), (private, _SIGNS)]
        made.append(_first_taken(lambda form, more: cryptoki.create(session, {**form, **more}), forms))
        made.append(cryptoki.create(session, public))
    except CryptokiError as error:
        _remove(cryptoki, session, made)
        if error.failure is Failure.UNFIT:
            sentence = f"the token does not take this key in the clear ({error}); generate the key in the token"
            raise Refused(Failure.UNFIT, sentence) from None
        raise
    return _settled(cryptoki, session, (made[0], made[1]), label)


def destroy(cryptoki: Cryptoki, session: int, key: TokenKey) -> None:
    """Delete a private key, then what belongs to it: its public key and certificates. Raises Refused, CryptokiError."""
    private = find_key(cryptoki, session, key)
    if private is None:
        raise Refused(Failure.KEY_GONE, f"the key {key.ski.hex()} is not in the token any more")
    told = {c.CKA_ID: key.found.id, c.CKA_LABEL: key.label}
    belongings = []
    for object_class, read in ((c.CKO_PUBLIC_KEY, public_key_of), (c.CKO_CERTIFICATE, certificate_key)):
        for handle in companions(cryptoki, session, object_class, told):
            with contextlib.suppress(TranslationError):
                if read(cryptoki, session, handle).ski == key.ski:
                    belongings.append(handle)
    cryptoki.destroy(session, private)
    for handle in belongings:
        cryptoki.destroy(session, handle)


def mac(cryptoki: Cryptoki, session: int, label: str, data: bytes, *, make: bool) -> bytes:
    """HMAC-SHA-256 with the secret key of this label; `make` one where there is none. Raises Refused, CryptokiError."""
    name = check_label(label)
    template: Template = {c.CKA_CLASS: c.CKO_SECRET_KEY, c.CKA_TOKEN: True, c.CKA_LABEL: name}
    handles = cryptoki.find(session, template)
    if len(handles) > 1:
        raise Refused(Failure.INVALID, f'the token has {len(handles)} secret keys with the label "{label}"')
    if not handles and not make:
        raise Refused(Failure.INVALID, f'the token has no secret key with the label "{label}"')
    handle = handles[0] if handles else _mac_key(cryptoki, session, name)
    result = cryptoki.sign_once(session, MechanismCall(c.CKM_SHA256_HMAC), handle, data)
    if len(result) != _MAC_BYTES:
        raise Refused(Failure.BROKEN, f"the token gave a MAC of {len(result)} bytes, and {_MAC_BYTES} were due")
    return result


def check_label(label: str) -> bytes:
    """A label as it is written to a token. Raises Refused."""
    name = label.encode("utf-8", "surrogatepass")
    if not name or len(name) > MAX_LABEL_BYTES or not label.isprintable():
        raise Refused(Failure.INVALID, f"a label has 1 to {MAX_LABEL_BYTES} bytes of printable characters")
    return name


def _first_taken(make: Callable[[Template, Template], T], forms: Sequence[tuple[Template, Template]]) -> T:
    """What `make` makes of the first form that the token takes. Raises CryptokiError: of the last form, or another."""
    for form in forms[:-1]:
        try:
            return make(*form)
        except CryptokiError as error:
            if error.rv not in _FORM_REFUSED:
                raise
    return make(*forms[-1])


def _mac_key(cryptoki: Cryptoki, session: int, name: bytes) -> int:
    template: Template = {
        **_KEPT,
        **dict.fromkeys((c.CKA_ENCRYPT, c.CKA_DECRYPT, c.CKA_WRAP, c.CKA_UNWRAP, c.CKA_DERIVE), False),
        c.CKA_CLASS: c.CKO_SECRET_KEY,
        c.CKA_KEY_TYPE: c.CKK_GENERIC_SECRET,
        c.CKA_VALUE_LEN: _MAC_KEY_BYTES,
        c.CKA_LABEL: name,
        c.CKA_ID: os.urandom(16),
        c.CKA_SIGN: True,
        c.CKA_VERIFY: True,
    }
    handle = cryptoki.generate_key(session, MechanismCall(c.CKM_GENERIC_SECRET_KEY_GEN), template)
    try:
        _check_kept(cryptoki, session, handle)
    except Refused:
        _remove(cryptoki, session, (handle,))
        raise
    return handle


def _forms_of(type_: KeyType) -> list[Template]:
    """What describes the key pair to make; where a token may know one form and not the other, both."""
    if type_.family is KeyFamily.RSA:
        try:
            bits = rsa_bits(type_)
        except TranslationError as error:
            raise Refused(Failure.INVALID, str(error)) from None
        # The wish to encrypt or wrap must be denied where the token would grant it unasked.
        return [
            {
                c.CKA_MODULUS_BITS: bits,
                c.CKA_PUBLIC_EXPONENT: _EXPONENT,
                **dict.fromkeys((c.CKA_ENCRYPT, c.CKA_WRAP, c.CKA_VERIFY_RECOVER), False),
            }
        ]
    return [{c.CKA_EC_PARAMS: parameters} for parameters in curve_parameters(type_)]


def _refuse_taken(cryptoki: Cryptoki, session: int, label: str) -> None:
    if cryptoki.find(session, private_template(ObjectMatch(label=label))):
        raise Refused(Failure.INVALID, f'the token has a key with the label "{label}" already; choose another')


def _settled(cryptoki: Cryptoki, session: int, pair: tuple[int, int], label: str) -> TokenKey:
    """Check a new pair (private, public), give it its id, and say what it is; what can't be kept is removed."""
    try:
        _check_kept(cryptoki, session, pair[0])
        key = read_key(cryptoki, session, pair[0])
        if key.found.id != key.ski and _has_id(cryptoki, session, pair, key.ski):
            key = read_key(cryptoki, session, pair[0])
        if len(cryptoki.find(session, private_template(ObjectMatch(label=label)))) > 1:
            raise Refused(Failure.INVALID, f'another key was just given the label "{label}"; choose another')
        return key
    except Unusable as problem:
        _remove(cryptoki, session, pair)
        raise Refused(Failure.UNFIT, f"the token made a key, but it {problem}; it was removed again") from None
    except (CryptokiError, Refused):
        _remove(cryptoki, session, pair)
        raise


def _has_id(cryptoki: Cryptoki, session: int, pair: tuple[int, int], ski: bytes) -> bool:
    """Make the SKI the CKA_ID of both. A token that lets ids not be changed keeps the one it was given."""
    before = cryptoki.attributes(session, pair[0], (c.CKA_ID,)).get(c.CKA_ID, b"")
    value: dict[int, Value] = {c.CKA_ID: ski}
    try:
        cryptoki.set_attributes(session, pair[1], value)
        cryptoki.set_attributes(session, pair[0], value)
    except CryptokiError as error:
        if error.failure is not Failure.UNFIT:
            raise
        with contextlib.suppress(CryptokiError):
            cryptoki.set_attributes(session, pair[1], {c.CKA_ID: before})
        return False
    return True


def _check_kept(cryptoki: Cryptoki, session: int, handle: int) -> None:
    """Whether a new key is kept as it should be. Raises Refused."""
    told = cryptoki.attributes(session, handle, (*_MUST_BE, *_MUST_NOT_BE_TRUE))
    is_kept = all(told.get(kind) == value for kind, value in _MUST_BE.items())
    if not is_kept or any(told.get(kind) == b"\1" for kind in _MUST_NOT_BE_TRUE):
        sentence = "the token would give the key out, or use it for more than signatures; it was removed again"
        raise Refused(Failure.UNFIT, sentence)


def _remove(cryptoki: Cryptoki, session: int, handles: Iterable[int]) -> None:
    for handle in handles:
        with contextlib.suppress(CryptokiError):
            cryptoki.destroy(session, handle)
