"""An open token, and the sessions that sign in it: each belongs to one thread, and heals itself.

The decisions are those of `session_state`; here they are carried out. No lock is held during a signature. The only lock
is that of the login, which belongs to the process and not to a session: one thread logs in, the others wait and see.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Mapping
from ctypes import byref, c_ulong
from typing import TypeVar

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.messages import TokenMatch
from hsm.backends.pkcs11.objects import TokenKey, find_key
from hsm.backends.pkcs11.results import CONFIGURED, Failure, Refused
from hsm.backends.pkcs11.session_state import Attempt, SessionState, Step
from hsm.backends.pkcs11.structures import MechanismCall, TokenInfo, Version, text_of
from hsm.backends.pkcs11.translate import mechanism_of, prefix_of, signature_of
from hsm.shared.logs import Secret
from hsm.wire.schemes import Scheme

T = TypeVar("T")

_SIGNATURE_ROOM = 1024
"""Bytes for a signature: RSA-8192."""


class SharedLogin:
    """The login of this process. Tokens that want none have one that is always there."""

    def __init__(self, cryptoki: Cryptoki, pin: Secret[bytes] | None, *, is_required: bool, asks_itself: bool) -> None:
        self._cryptoki = cryptoki
        self._pin = pin
        self._asks_itself = asks_itself
        self.is_required = is_required
        self.generation = 0
        """Grows with each login, and when a key is gone. Handles found before are not to be trusted after it."""
        self._refused: CryptokiError | None = None
        self._lock = threading.Lock()

    def holds_in(self, session: int) -> bool:
        """Whether a new session is logged in already. Raises CryptokiError."""
        return not self.is_required or self._cryptoki.is_logged_in(session)

    def distrust_handles(self) -> None:
        """A key is gone: a library may give the number of its handle to another."""
        with self._lock:
            self.generation += 1

    def renew(self, session: int, seen: int) -> None:
        """Log in, unless another thread did since `generation` was `seen`. Raises CryptokiError, Refused.

        A PIN that was refused once is never tried again.
        """
        with self._lock:
            if self._refused is not None:
                raise CryptokiError(self._refused.rv, self._refused.call)
            if self.generation != seen and self.holds_in(session):
                return
            if self._pin is None and not self._asks_itself:
                hint = "name a file that holds it with `pin_file`, or with `pin-source` in the URI"
                raise Refused(Failure.PIN_REFUSED, f"the token wants a PIN, and none is configured; {hint}")
            try:
                self._cryptoki.login(session, self._pin.reveal() if self._pin is not None else None)
            except CryptokiError as error:
                if error.failure is Failure.PIN_REFUSED:
                    self._refused = error
                if error.rv != c.CKR_USER_ALREADY_LOGGED_IN:
                    raise
            self.generation += 1


class Token:
    """One token of a library, found and ready for sessions."""

    def __init__(self, cryptoki: Cryptoki, wanted: TokenMatch, pin: Secret[bytes] | None) -> None:
        """Raises Refused where not exactly one token fits, CryptokiError."""
        self.cryptoki = cryptoki
        self.slot, info = _the_one(cryptoki, wanted)
        self.label = text_of(info.label)
        self.serial = text_of(info.serial)
        self.is_write_protected = bool(info.flags & c.CKF_WRITE_PROTECTED)
        self.login = SharedLogin(
            cryptoki,
            pin,
            is_required=bool(info.flags & c.CKF_LOGIN_REQUIRED),
            asks_itself=bool(info.flags & c.CKF_PROTECTED_AUTHENTICATION_PATH),
        )
        self.keys: Mapping[bytes, TokenKey] = {}
        """The keys that may be used, by SKI. Replaced as a whole."""


def _the_one(cryptoki: Cryptoki, wanted: TokenMatch) -> tuple[int, TokenInfo]:
    fitting = []
    seen = []
    failures = []
    for slot in cryptoki.slots():
        try:
            info = cryptoki.token_info(slot)
        except CryptokiError as error:  # another slot may be the one
            failures.append(error)
            continue
        if not info.flags & c.CKF_TOKEN_INITIALIZED:
            continue
        seen.append(f'"{text_of(info.label)}" (serial {text_of(info.serial)})')
        if _fits(cryptoki, slot, info, wanted):
            fitting.append((slot, info))
    if len(fitting) == 1:
        return fitting[0]
    if failures and not fitting:
        raise failures[0]
    if not fitting:
        others = f"it has {', '.join(seen[:20])}" if seen else f"it has none that is initialised; {CONFIGURED}"
        raise Refused(Failure.TOKEN_GONE, f"the library shows no token that fits the URI; {others}")
    raise Refused(
        Failure.INVALID, f"{len(fitting)} tokens fit the URI: {', '.join(seen[:20])}; add `serial` or `slot-id`"
    )


def _fits(cryptoki: Cryptoki, slot: int, info: TokenInfo, wanted: TokenMatch) -> bool:
    slot_info, library = cryptoki.slot_info(slot), cryptoki.info()
    pairs = (
        (wanted.token, text_of(info.label)),
        (wanted.manufacturer, text_of(info.manufacturer)),
        (wanted.model, text_of(info.model)),
        (wanted.serial, text_of(info.serial)),
        (wanted.slot_id, slot),
        (wanted.slot_description, text_of(slot_info.description)),
        (wanted.slot_manufacturer, text_of(slot_info.manufacturer)),
        (wanted.library_description, text_of(library.description)),
        (wanted.library_manufacturer, text_of(library.manufacturer)),
        (_full_version(wanted.library_version), _version(library.version)),
    )
    return all(want is None or want == have for want, have in pairs)


def _version(version: Version) -> str:
    return f"{version.major}.{version.minor}"


def _full_version(text: str | None) -> str | None:
    return f"{text}.0" if text is not None and "." not in text else text


class Session:
    """One session of a token, for one thread."""

    def __init__(self, token: Token, *, read_write: bool = False) -> None:
        self._token = token
        self._is_read_write = read_write
        self._cryptoki = token.cryptoki
        self._state = SessionState()
        self._handle = 0
        self._generation = 0
        self._mechanisms = {scheme: (MechanismCall(*mechanism_of(scheme)), prefix_of(scheme)) for scheme in Scheme}
        self._buffer = ctypes.create_string_buffer(_SIGNATURE_ROOM)
        self._length = c_ulong()
        self._length_reference = byref(self._length)

    def sign(self, ski: bytes, scheme: Scheme, payload: bytes) -> bytes:
        """The signature, healing the session where it must. Raises CryptokiError, Refused, TranslationError."""
        key = self._token.keys.get(ski)
        if key is None:
            raise Refused(Failure.KEY_GONE, f"the token has no key {ski.hex()}")
        if key.family is not scheme.family:
            raise Refused(Failure.INVALID, f"a {key.found.type.value} key can't sign {scheme.value}")
        self._forget_stale_handles()
        attempt = Attempt(ski)
        while True:
            try:
                handle = self._state.handles.get(ski)
                if handle is None:
                    self._step(key, attempt)
                    continue
                made = self._signed(handle, key, scheme, payload)
                if self._handles_hold():
                    return made
                if not attempt.goes_on_after(Failure.KEY_GONE, self._state):
                    raise Refused(Failure.BUSY, "the token was logged in again during the signature")
            except CryptokiError as error:
                if not attempt.goes_on_after(error.failure, self._state):
                    raise

    def run(self, work: Callable[[int], T]) -> T:
        """Do something else in the session, healing it likewise; `work` gets its handle, maybe more than once.

        Raises what `sign` raises, and what `work` does.
        """
        attempt = Attempt(b"")
        while True:
            try:
                return work(self._ready())
            except CryptokiError as error:
                if not attempt.goes_on_after(error.failure, self._state):
                    raise

    def run_once(self, work: Callable[[int], T]) -> T:
        """As `run`, but `work` is done once: for what must not be done twice."""
        handle = self.run(lambda handle: handle)
        try:
            return work(handle)
        except CryptokiError as error:
            self._state.lose(error.failure, b"")
            raise

    def close(self) -> None:
        """End the session; errors do not matter any more."""
        if self._handle:
            with contextlib.suppress(CryptokiError):
                self._cryptoki.close_session(self._handle)
        self._handle = 0
        self._state.lose(Failure.SESSION_LOST, b"")

    def _handles_hold(self) -> bool:
        """Nobody has logged in since they were found: else the same number may be another key's by now.

        Asked after a signature, too. Numbers can be given anew only after a login, and that is counted first.
        """
        return self._generation == self._token.login.generation

    def _forget_stale_handles(self) -> None:
        if not self._handles_hold():
            self._generation = self._token.login.generation
            self._state.handles.clear()

    def _ready(self) -> int:
        if self._state.step(b"") is Step.OPEN:
            self._open()
        if self._state.step(b"") is Step.LOGIN:
            self._log_in()
        return self._handle

    def _signed(self, handle: int, key: TokenKey, scheme: Scheme, payload: bytes) -> bytes:
        mechanism, prefix = self._mechanisms[scheme]
        if rv := self._cryptoki.sign_init(self._handle, mechanism.reference, handle):
            raise CryptokiError(rv, "C_SignInit")
        self._length.value = _SIGNATURE_ROOM
        data = prefix + payload
        if rv := self._cryptoki.sign(self._handle, data, len(data), self._buffer, self._length_reference):
            raise CryptokiError(rv, "C_Sign")
        return signature_of(scheme, ctypes.string_at(self._buffer, self._length.value), key.signature_bytes)

    def _step(self, key: TokenKey, attempt: Attempt) -> None:
        """One step towards the key's handle."""
        step = self._state.step(key.ski)
        if step is Step.OPEN:
            self._open()
        elif step is Step.LOGIN:
            self._log_in()
        elif step is Step.FIND:
            self._forget_stale_handles()
            handle = find_key(self._cryptoki, self._handle, key)
            if handle is not None:
                self._state.found(key.ski, handle)
            elif not self._token.login.holds_in(self._handle):
                # A session without login sees no private keys, and says nothing.
                raise CryptokiError(c.CKR_USER_NOT_LOGGED_IN, "C_FindObjects")
            # A token that is being changed may leave a key out for a moment (SoftHSM2 does): it is looked for twice.
            elif not attempt.goes_on_after(Failure.KEY_GONE, self._state):
                raise Refused(Failure.KEY_GONE, f"the key {key.ski.hex()} is not in the token any more")

    def _open(self) -> None:
        if self._handle:
            self.close()
        self._handle = self._cryptoki.open_session(self._token.slot, read_write=self._is_read_write)
        self._generation = self._token.login.generation
        self._state.opened(is_logged_in=self._token.login.holds_in(self._handle))

    def _log_in(self) -> None:
        self._token.login.renew(self._handle, self._generation)
        self._generation = self._token.login.generation
        self._state.logged_in()
