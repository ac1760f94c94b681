"""A PKCS#11 library in Python for tests of what real ones do only when they are broken.

It keeps sessions, the login and handles as strictly as the standard lets a library: all handles of private keys are new
after each login, and numbers are used again. `fail` makes the next call of a function give a result.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import der
from hsm.backends.pkcs11.cryptoki import CryptokiError
from hsm.backends.pkcs11.structures import Info, SlotInfo, Template, TokenInfo, value_bytes
from hsm.backends.pkcs11.translate import curve_parameters
from hsm.wire.schemes import KeyType

P256_PARAMETERS = curve_parameters(KeyType.P256)[0]


def point_of(key: EllipticCurvePrivateKey) -> bytes:
    return der.wrap(der.OCTET_STRING, key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def certificate(key: EllipticCurvePrivateKey) -> bytes:
    """A certificate of this key, signed by itself."""
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(key, SHA256()).public_bytes(Encoding.DER)


class FakeCryptoki:
    """Looks like `Cryptoki` to its users."""

    def __init__(self, pin: bytes = b"1234") -> None:
        self.pin = pin
        self.calls: list[str] = []
        self.objects: dict[int, dict[int, bytes]] = {}
        """Attributes of each object, by a number of ours."""
        self.private: dict[int, EllipticCurvePrivateKey] = {}
        self.sessions: set[int] = set()
        self.is_user = False
        self.flags = c.CKF_LOGIN_REQUIRED | c.CKF_TOKEN_INITIALIZED
        self._failures: dict[str, list[int]] = defaultdict(list)
        self._numbers = itertools.count(1)
        self._handles: dict[int, int] = {}
        self._active: dict[int, int] = {}

    def fail(self, call: str, *rvs: int) -> None:
        """The next calls of this function give these results; CKR_OK lets one through."""
        self._failures[call] += rvs

    def drop_sessions(self) -> None:
        """As when an HSM restarts: sessions and login are gone."""
        self.sessions.clear()
        self._log_out()

    def log_out(self) -> None:
        """As when somebody calls C_Logout, or the HSM does."""
        self._log_out()

    def add(self, kind: int, attributes: Template) -> int:
        number = next(self._numbers)
        values = {kind_: value_bytes(value) for kind_, value in attributes.items()}
        self.objects[number] = {c.CKA_CLASS: value_bytes(kind), c.CKA_TOKEN: b"\1", **values}
        self._renumber()
        return number

    def add_p256(self, label: str = "web", identifier: bytes = b"\1", **more: Any) -> EllipticCurvePrivateKey:
        """A key pair: the private key does not tell its point, its public key does."""
        key: EllipticCurvePrivateKey = more.pop("key", None) or generate_private_key(SECP256R1())
        shared: Template = {c.CKA_LABEL: label.encode(), c.CKA_ID: identifier, c.CKA_KEY_TYPE: c.CKK_EC}
        parameters: Template = {c.CKA_EC_PARAMS: P256_PARAMETERS}
        number = self.add(c.CKO_PRIVATE_KEY, {**shared, **parameters, c.CKA_SIGN: True, c.CKA_EXTRACTABLE: False})
        self.private[number] = key
        self.add(c.CKO_PUBLIC_KEY, {**shared, **parameters, c.CKA_EC_POINT: point_of(key)})
        return key

    # The library.

    def info(self) -> Info:
        return Info(description=b"Fake".ljust(32), manufacturer=b"Tests".ljust(32))

    def description(self) -> str:
        return "Fake 1.0"

    def slots(self) -> list[int]:
        self._enter("C_GetSlotList")
        return [7]

    def slot_info(self, _slot: int) -> SlotInfo:
        return SlotInfo(description=b"Fake slot".ljust(64))

    def token_info(self, _slot: int) -> TokenInfo:
        self._enter("C_GetTokenInfo")
        return TokenInfo(label=b"fake".ljust(32), serial=b"0001".ljust(16), model=b"F".ljust(16), flags=self.flags)

    def open_session(self, _slot: int, *, read_write: bool = False) -> int:
        self._enter("C_OpenSession")
        session = next(self._numbers)
        self.sessions.add(session)
        return session

    def close_session(self, session: int) -> None:
        self._in("C_CloseSession", session)
        self.sessions.discard(session)
        if not self.sessions:
            self._log_out()

    def is_logged_in(self, session: int) -> bool:
        self._in("C_GetSessionInfo", session)
        return self.is_user

    def login(self, session: int, pin: bytes | None) -> None:
        self._in("C_Login", session)
        if self.is_user:
            raise CryptokiError(c.CKR_USER_ALREADY_LOGGED_IN, "C_Login")
        if pin != self.pin:
            raise CryptokiError(c.CKR_PIN_INCORRECT, "C_Login")
        self.is_user = True
        self._renumber()

    def find(self, session: int, template: Template) -> list[int]:
        self._in("C_FindObjectsInit", session)
        wanted = {kind: value_bytes(value) for kind, value in template.items()}
        return [handle for handle, number in self._handles.items() if wanted.items() <= self.objects[number].items()]

    def attributes(self, session: int, handle: int, wanted: tuple[int, ...]) -> dict[int, bytes]:
        self._in("C_GetAttributeValue", session)
        if handle not in self._handles:
            raise CryptokiError(c.CKR_OBJECT_HANDLE_INVALID, "C_GetAttributeValue")
        told = self.objects[self._handles[handle]]
        return {kind: told[kind] for kind in wanted if kind in told}

    def destroy(self, session: int, handle: int) -> None:
        self._in("C_DestroyObject", session)
        if handle not in self._handles:
            raise CryptokiError(c.CKR_OBJECT_HANDLE_INVALID, "C_DestroyObject")
        number = self._handles.pop(handle)
        del self.objects[number]
        self.private.pop(number, None)

    def set_attributes(self, session: int, handle: int, template: Template) -> None:
        self._in("C_SetAttributeValue", session)
        self.objects[self._handles[handle]] |= {kind: value_bytes(value) for kind, value in template.items()}

    def generate_key_pair(self, session: int, _mechanism: Any, public: Template, private: Template) -> tuple[int, int]:
        """Makes a P-256 pair as it was asked to, except for what `weakened` says."""
        self._in("C_GenerateKeyPair", session)
        key = generate_private_key(SECP256R1())
        parameters: Template = {c.CKA_KEY_TYPE: c.CKK_EC, c.CKA_EC_PARAMS: P256_PARAMETERS}
        first = self.add(c.CKO_PUBLIC_KEY, {**public, **parameters, c.CKA_EC_POINT: point_of(key)})
        second = self.add(c.CKO_PRIVATE_KEY, {**private, **parameters, c.CKA_LOCAL: True, **self.weakened})
        self.private[second] = key
        handles = {number: handle for handle, number in self._handles.items()}
        return handles[first], handles[second]

    weakened: Template = {}

    def sign_init(self, session: int, _mechanism: Any, handle: int) -> int:
        try:
            self._in("C_SignInit", session)
            number = self._handles.get(handle)
            if number not in self.private:
                raise CryptokiError(c.CKR_KEY_HANDLE_INVALID, "C_SignInit")
            if session in self._active:
                raise CryptokiError(c.CKR_OPERATION_ACTIVE, "C_SignInit")
            if not self.is_user:
                raise CryptokiError(c.CKR_USER_NOT_LOGGED_IN, "C_SignInit")
        except CryptokiError as error:
            return error.rv
        self._active[session] = number
        return c.CKR_OK

    def sign(self, session: int, data: bytes, _length: int, buffer: Any, length: Any) -> int:
        try:
            self._in("C_Sign", session)
        except CryptokiError as error:
            self._active.pop(session, None)  # 2.40, 5.11: C_Sign ends the operation, also with an error
            return error.rv
        key = self.private[self._active.pop(session)]
        r, s = decode_dss_signature(key.sign(data, ECDSA(Prehashed(SHA256()))))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        buffer[: len(raw)] = raw
        length._obj.value = len(raw)
        return c.CKR_OK

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self._failures[call] and (rv := self._failures[call].pop(0)) != c.CKR_OK:
            raise CryptokiError(rv, call)

    def _in(self, call: str, session: int) -> None:
        self._enter(call)
        if session not in self.sessions:
            raise CryptokiError(c.CKR_SESSION_HANDLE_INVALID, call)

    def _log_out(self) -> None:
        if self.flags & c.CKF_LOGIN_REQUIRED:
            self.is_user = False
            self._active.clear()
            self._renumber()

    def _renumber(self) -> None:
        """Handles start at 1 again, and private objects have none without a login."""
        is_user = self.is_user or not self.flags & c.CKF_LOGIN_REQUIRED
        private = value_bytes(c.CKO_PRIVATE_KEY)
        seen = [n for n, told in self.objects.items() if is_user or told[c.CKA_CLASS] != private]
        self._handles = dict(enumerate(reversed(seen), 1))
