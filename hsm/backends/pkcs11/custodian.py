"""What a token worker does besides signing: open the token, list its keys, change them. One request after the other.

It has a thread and sessions of its own, so that a key being generated (seconds) holds up no signature.
"""

from __future__ import annotations

from collections.abc import Callable

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import key_making
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.failures import failed
from hsm.backends.pkcs11.messages import (
    Answer,
    Destroy,
    Done,
    Generate,
    Import,
    KeysFound,
    ListKeys,
    Mac,
    ObjectMatch,
    Open,
    Opened,
    Request,
    Signed,
)
from hsm.backends.pkcs11.objects import Listing, TokenKey, list_keys
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.sessions import Session, T, Token
from hsm.shared.logs import Secret


class Custodian:
    """Answers every request but Sign and Ping. Used by one thread."""

    def __init__(self, start_signing: Callable[[list[Session]], None]) -> None:
        self._start_signing = start_signing
        self._cryptoki: Cryptoki | None = None
        self._token: Token | None = None
        self._reader: Session | None = None
        self._objects = ObjectMatch()

    def answer(self, request: Request) -> Answer:
        """The answer, whatever happens."""
        try:
            return self._open(request) if isinstance(request, Open) else self._do(request)
        except Exception as error:
            return failed(request.id, error)

    def close(self) -> None:
        """End the sessions and the library. Call it when no signing thread is in a call."""
        if self._reader is not None:
            self._reader.close()
        if self._cryptoki is not None:
            self._cryptoki.finalize()

    def _open(self, request: Open) -> Opened:
        if self._cryptoki is not None:
            raise Refused(Failure.INVALID, "the token was opened before; start another worker")
        self._objects = request.objects
        cryptoki = Cryptoki(request.module)
        cryptoki.initialize()
        self._cryptoki = cryptoki
        pin = Secret(request.pin) if request.pin is not None else None
        token = Token(cryptoki, request.token, pin)
        self._reader = Session(token)
        self._token = token
        listing = self._list()
        left_out = listing.left_out
        if request.sessions:
            sessions, short = _opened_sessions(token, request.sessions)
            left_out += short
            self._start_signing(sessions)
        return Opened(
            id=request.id,
            keys=tuple(key.found for key in listing.keys),
            left_out=left_out,
            token=token.label,
            serial=token.serial,
            library=cryptoki.description(),
        )

    def _do(self, request: Request) -> Answer:
        match request:
            case ListKeys():
                listing = self._list()
                found = tuple(key.found for key in listing.keys)
                return KeysFound(id=request.id, keys=found, left_out=listing.left_out)
            case Generate():
                made = self._change(lambda ck, s: key_making.generate(ck, s, request.type, request.label))
                return self._added(request.id, made)
            case Import():
                made = self._change(lambda ck, s: key_making.import_key(ck, s, request.private_key, request.label))
                return self._added(request.id, made)
            case Destroy():
                return self._destroy(request)
            case Mac():
                # To make the key, the session must be read-write; to use it, not even a good session is needed twice.
                use = self._change if request.make else self._read
                mac = use(lambda ck, s: key_making.mac(ck, s, request.label, request.data, make=request.make))
                return Signed(id=request.id, signature=mac)
            case _:
                raise Refused(Failure.INVALID, "the token worker does not know this request")

    def _list(self) -> Listing:
        token, _ = self._opened()

        def listed(cryptoki: Cryptoki, session: int) -> Listing:
            listing = list_keys(cryptoki, session, self._objects)
            if not token.login.holds_in(session):
                # Without a login a session shows no private keys, and says nothing.
                raise CryptokiError(c.CKR_USER_NOT_LOGGED_IN, "C_FindObjects")
            return listing

        listing = self._read(listed)
        if token.keys.keys() - {key.ski for key in listing.keys}:
            # A token that is being changed may leave a key out for a moment (SoftHSM2 does): only two in a row count.
            listing = self._read(listed)
        self._keep(token, {key.ski: key for key in listing.keys})
        return listing

    def _keep(self, token: Token, keys: dict[bytes, TokenKey]) -> None:
        has_lost = not token.keys.keys() <= keys.keys()
        token.keys = keys
        if has_lost:
            token.login.distrust_handles()

    def _added(self, request_id: int, key: TokenKey) -> KeysFound:
        token, _ = self._opened()
        self._keep(token, {**token.keys, key.ski: key})
        return KeysFound(id=request_id, keys=(key.found,))

    def _destroy(self, request: Destroy) -> Done:
        token, _ = self._opened()
        if request.key not in token.keys:
            self._list()  # another process may have made it since
        key = token.keys.get(request.key)
        if key is None:
            raise Refused(Failure.INVALID, f"the token has no key {request.key.hex()}")
        self._change(lambda cryptoki, session: key_making.destroy(cryptoki, session, key))
        self._keep(token, {ski: other for ski, other in token.keys.items() if ski != request.key})
        return Done(id=request.id)

    def _read(self, work: Callable[[Cryptoki, int], T]) -> T:
        token, reader = self._opened()
        return reader.run(lambda handle: work(token.cryptoki, handle))

    def _change(self, work: Callable[[Cryptoki, int], T]) -> T:
        """Do something in a read-write session that lives as long as it takes."""
        token, _ = self._opened()
        if token.is_write_protected:
            raise Refused(Failure.UNFIT, "the token is write-protected")
        session = Session(token, read_write=True)
        try:
            return session.run_once(lambda handle: work(token.cryptoki, handle))
        finally:
            session.close()

    def _opened(self) -> tuple[Token, Session]:
        if self._token is None or self._reader is None:
            raise Refused(Failure.INVALID, "the token is not open")
        return self._token, self._reader


def _opened_sessions(token: Token, count: int) -> tuple[list[Session], tuple[str, ...]]:
    """That many sessions, or as many as the token gives; one by one, because some HSMs fail when many come at once."""
    sessions: list[Session] = []
    for _ in range(count):
        session = Session(token)
        try:
            session.run(lambda handle: handle)
        except CryptokiError as error:
            if not sessions or error.failure is not Failure.BUSY:
                raise
            return sessions, (
                f"the token gives {len(sessions)} of {count} sessions ({error}); set `concurrency` to that",
            )
        sessions.append(session)
    return sessions, ()
