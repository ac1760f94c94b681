from __future__ import annotations

import threading
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import Cryptoki, CryptokiError
from hsm.backends.pkcs11.messages import ObjectMatch, TokenMatch
from hsm.backends.pkcs11.objects import list_keys
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.sessions import Session, Token
from hsm.backends.pkcs11.translate import TranslationError
from hsm.shared.logs import Secret
from hsm.wire.schemes import Scheme
from tests.support.fake_cryptoki import FakeCryptoki

DIGEST = bytes(range(32))


class Play:
    """A fake token with two keys, and a session that has signed once with the first."""

    def __init__(self, pin: bytes = b"1234", flags: int = 0) -> None:
        self.library = FakeCryptoki()
        self.library.flags |= flags
        self.web, self.api = self.library.add_p256("web", b"\1"), self.library.add_p256("api", b"\2")
        self.token = Token(cast("Cryptoki", self.library), TokenMatch(token="fake"), Secret(pin))
        self.session = Session(self.token)

    def start(self) -> Play:
        listing = self.session.run(lambda handle: list_keys(self.token.cryptoki, handle, ObjectMatch()))
        self.token.keys = {key.ski: key for key in listing.keys}
        self.skis = {key.found.label: key.ski for key in listing.keys}
        self.signs()
        self.library.calls.clear()
        return self

    def signs(self, label: str = "web", session: Session | None = None) -> None:
        made = (session or self.session).sign(self.skis[label], Scheme.ECDSA_SHA256, DIGEST)
        key: EllipticCurvePrivateKey = {"web": self.web, "api": self.api}[label]
        key.public_key().verify(made, DIGEST, ECDSA(Prehashed(SHA256())))

    def fails(self, failure: Failure) -> None:
        with pytest.raises(CryptokiError) as caught:
            self.session.sign(self.skis["web"], Scheme.ECDSA_SHA256, DIGEST)
        assert caught.value.failure is failure

    def count(self, call: str) -> int:
        return self.library.calls.count(call)


@pytest.fixture
def play() -> Play:
    return Play().start()


def test_a_signature_takes_two_calls(play: Play) -> None:
    play.signs()
    assert play.library.calls == ["C_SignInit", "C_Sign"]


@pytest.mark.parametrize("call", ["C_SignInit", "C_Sign"])
@pytest.mark.parametrize("rv", [c.CKR_FUNCTION_FAILED, c.CKR_HOST_MEMORY, c.CKR_DEVICE_MEMORY])
def test_a_busy_token_is_not_asked_twice(play: Play, call: str, rv: int) -> None:
    play.library.fail(call, rv)
    play.fails(Failure.BUSY)
    assert play.count(call) == 1
    play.signs()


@pytest.mark.parametrize("call", ["C_SignInit", "C_Sign"])
@pytest.mark.parametrize(
    "rv",
    [
        c.CKR_DEVICE_ERROR,
        c.CKR_SESSION_HANDLE_INVALID,
        c.CKR_SESSION_CLOSED,
        c.CKR_OPERATION_ACTIVE,
        c.CKR_TOKEN_NOT_PRESENT,
        c.CKR_DEVICE_REMOVED,
        c.CKR_GENERAL_ERROR,
    ],
)
def test_a_lost_session_is_opened_again(play: Play, call: str, rv: int) -> None:
    play.library.fail(call, rv)
    play.signs()
    assert (play.count("C_OpenSession"), play.count("C_CloseSession")) == (1, 1)
    assert len(play.library.sessions) == 1


def test_all_sessions_are_gone_and_the_login_with_them(play: Play) -> None:
    play.library.drop_sessions()
    play.signs()
    assert play.count("C_Login") == 1
    play.signs("api")


@pytest.mark.parametrize("call", ["C_SignInit", "C_Sign"])
def test_a_session_that_stays_lost_ends_the_request_and_heals_later(play: Play, call: str) -> None:
    play.library.fail(call, c.CKR_DEVICE_ERROR, c.CKR_DEVICE_ERROR)
    play.fails(Failure.SESSION_LOST)
    assert play.count("C_OpenSession") == 1
    play.signs()


def test_a_logout_is_followed_by_a_login(play: Play) -> None:
    play.library.log_out()
    play.signs()
    assert (play.count("C_Login"), play.count("C_OpenSession")) == (1, 0)


@pytest.mark.parametrize("call", ["C_SignInit", "C_Sign"])
def test_a_token_that_only_says_that_it_is_logged_out(play: Play, call: str) -> None:
    play.library.fail(call, c.CKR_USER_NOT_LOGGED_IN)
    play.signs()
    assert play.count("C_Login") == 1  # CKR_USER_ALREADY_LOGGED_IN is success


def test_logged_out_twice_ends_the_request(play: Play) -> None:
    play.library.fail("C_SignInit", c.CKR_USER_NOT_LOGGED_IN, c.CKR_USER_NOT_LOGGED_IN)
    play.fails(Failure.LOGGED_OUT)
    play.signs()


def test_a_key_whose_handle_is_gone_is_looked_for(play: Play) -> None:
    play.library.fail("C_SignInit", c.CKR_KEY_HANDLE_INVALID)
    play.signs()
    assert play.count("C_OpenSession") == play.count("C_Login") == 0


def test_a_key_that_is_gone_is_not_found(play: Play) -> None:
    for number in list(play.library.private):
        del play.library.objects[number]
    play.library.private.clear()
    play.library._renumber()
    with pytest.raises(Refused, match="is not in the token any more") as caught:
        play.session.sign(play.skis["web"], Scheme.ECDSA_SHA256, DIGEST)
    assert caught.value.failure is Failure.KEY_GONE


def test_a_key_that_is_overlooked_once_is_looked_for_again(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, answers = play.library.find, [[]]

    def find(session: int, template: Any) -> list[int]:
        return answers.pop() if answers else honest(session, template)

    monkeypatch.setattr(play.library, "find", find)
    play.library.log_out()  # forgets the handle
    play.signs()
    assert answers == []


def test_another_sessions_login_makes_handles_worthless(play: Play) -> None:
    """Numbers of handles are used again after a login: an old one may be another key's."""
    other = Session(play.token)
    play.signs("web", other)
    play.signs("api", other)
    play.library.add_p256("new", b"\3")  # what shifts the numbers
    play.library.log_out()
    play.signs("web")  # logs in
    play.signs("web", other)
    play.signs("api", other)
    assert play.count("C_Login") == 1


def test_a_login_in_the_middle_of_a_signature_spoils_it(play: Play) -> None:
    """The handle was good when it was looked up, and is another key's when it is used."""
    other = Session(play.token)
    play.signs("web", other)
    play.signs("api")
    honest = play.library.sign_init

    def sign_init(session: int, mechanism: object, handle: int) -> int:
        play.library.sign_init = honest  # type: ignore[method-assign]
        play.library.add_p256("new", b"\3")
        play.library.add_p256("newer", b"\4")
        play.library.log_out()
        play.signs("web", other)
        return play.library.sign_init(session, mechanism, handle)

    play.library.sign_init = sign_init  # type: ignore[method-assign]
    play.signs("api")
    play.signs("web")


def test_logins_without_end_end_the_request(play: Play) -> None:
    other = Session(play.token)
    honest = play.library.sign

    def sign(*arguments: Any) -> int:
        rv = honest(*arguments)
        play.token.login.generation += 1
        return rv

    play.library.sign = sign  # type: ignore[method-assign]
    with pytest.raises(Refused, match="logged in again") as caught:
        other.sign(play.skis["web"], Scheme.ECDSA_SHA256, DIGEST)
    assert caught.value.failure is Failure.BUSY


def test_a_key_that_was_replaced_under_its_name_is_not_used(play: Play) -> None:
    """Same label and CKA_ID, another key: its public key tells."""
    web = next(number for number, key in play.library.private.items() if key is play.web)
    for number in [n for n, told in play.library.objects.items() if told.get(c.CKA_ID) == b"\1"]:
        del play.library.objects[number]
    del play.library.private[web]
    play.library.add_p256("web", b"\1")
    play.library.fail("C_SignInit", c.CKR_KEY_HANDLE_INVALID)
    with pytest.raises(Refused, match="not in the token any more"):
        play.session.sign(play.skis["web"], Scheme.ECDSA_SHA256, DIGEST)
    play.signs("api")


@pytest.mark.parametrize("rv", [c.CKR_TOKEN_NOT_PRESENT, c.CKR_DEVICE_REMOVED, c.CKR_CRYPTOKI_NOT_INITIALIZED])
def test_a_token_that_is_gone_ends_the_request(play: Play, rv: int) -> None:
    play.library.fail("C_SignInit", c.CKR_TOKEN_NOT_PRESENT)
    play.library.fail("C_OpenSession", rv)
    play.fails(Failure.TOKEN_GONE)
    assert play.count("C_OpenSession") == 1
    play.signs()


def test_a_wrong_pin_is_tried_once_for_all_sessions() -> None:
    play = Play(pin=b"wrong")
    sessions = [play.session, *(Session(play.token) for _ in range(5))]
    for session in sessions:
        for _ in range(3):
            with pytest.raises(CryptokiError) as caught:
                session.run(lambda handle: handle)
            assert caught.value.rv == c.CKR_PIN_INCORRECT
    assert play.count("C_Login") == 1


def test_a_pin_that_is_refused_later_is_not_tried_again(play: Play) -> None:
    play.library.pin = b"changed"
    for _ in range(3):
        play.library.log_out()
        play.fails(Failure.PIN_REFUSED)
    assert play.count("C_Login") == 1


def test_a_busy_login_is_tried_by_the_next_request(play: Play) -> None:
    play.library.log_out()
    play.library.fail("C_Login", c.CKR_FUNCTION_FAILED)
    play.fails(Failure.BUSY)
    play.signs()


def test_a_token_that_wants_a_pin_is_not_opened_without_one() -> None:
    play = Play()
    token = Token(cast("Cryptoki", play.library), TokenMatch(), None)
    with pytest.raises(Refused, match="none is configured") as caught:
        Session(token).run(lambda handle: handle)
    assert caught.value.failure is Failure.PIN_REFUSED
    assert play.count("C_Login") == 0


def test_a_token_without_login_is_never_logged_in() -> None:
    play = Play()
    play.library.flags &= ~c.CKF_LOGIN_REQUIRED
    play.library.is_user = True  # there is no other state
    play.library._renumber()
    play.token = Token(cast("Cryptoki", play.library), TokenMatch(), None)
    play.session = Session(play.token)
    play.start()
    play.library.drop_sessions()
    play.signs()
    assert play.count("C_Login") == 0


def test_many_threads_log_in_once() -> None:
    play = Play().start()
    sessions = [Session(play.token) for _ in range(12)]
    for session in sessions:
        play.signs("web", session)
    play.library.calls.clear()
    play.library.log_out()
    gate = threading.Barrier(12)

    def work(session: Session) -> None:
        gate.wait(10)
        play.signs("web", session)

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert play.count("C_Login") == 1


def test_work_in_a_session_is_healed_likewise(play: Play) -> None:
    play.library.drop_sessions()
    assert play.session.run(lambda handle: play.library.is_logged_in(handle))


def test_work_that_must_not_be_done_twice_is_not(play: Play) -> None:
    play.library.drop_sessions()
    done: list[int] = []

    def work(handle: int) -> None:
        done.append(handle)
        raise CryptokiError(c.CKR_DEVICE_ERROR, "C_GenerateKeyPair")

    with pytest.raises(CryptokiError):
        Session(play.token, read_write=True).run_once(work)
    assert len(done) == 1


def test_requests_that_are_wrong_reach_no_token(play: Play) -> None:
    with pytest.raises(Refused, match="has no key 6e6f6e65"):
        play.session.sign(b"none", Scheme.ECDSA_SHA256, DIGEST)
    with pytest.raises(Refused, match="p256 key can't sign rsa_pss_sha256"):
        play.session.sign(play.skis["web"], Scheme.RSA_PSS_SHA256, DIGEST)
    assert play.library.calls == []


@pytest.mark.parametrize("length", [0, 63, 65, 256])
def test_a_signature_of_a_wrong_length_is_an_error(play: Play, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    def sign(_session: int, _data: bytes, _length: int, _buffer: object, reference: object) -> int:
        reference._obj.value = length  # type: ignore[attr-defined]
        return c.CKR_OK

    monkeypatch.setattr(play.library, "sign", sign)
    with pytest.raises(TranslationError, match=f"of {length} bytes, and 64 were due"):
        play.session.sign(play.skis["web"], Scheme.ECDSA_SHA256, DIGEST)


def test_closing_ends_the_session(play: Play) -> None:
    play.session.close()
    assert play.library.sessions == set()
    play.session.close()
    play.signs()


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (TokenMatch(token="other"), r'no token that fits the URI; it has "fake" \(serial 0001\)'),
        (TokenMatch(serial="0002"), "no token that fits"),
        (TokenMatch(slot_id=8), "no token that fits"),
        (TokenMatch(slot_description="x"), "no token that fits"),
        (TokenMatch(library_version="9"), "no token that fits"),
    ],
)
def test_tokens_that_do_not_fit(wanted: TokenMatch, says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        Token(cast("Cryptoki", FakeCryptoki()), wanted, None)
    assert caught.value.failure is Failure.TOKEN_GONE


def test_a_slot_that_can_not_be_asked_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCryptoki()
    monkeypatch.setattr(library, "slots", lambda: [1, 2])
    library.fail("C_GetTokenInfo", c.CKR_TOKEN_NOT_RECOGNIZED)
    assert Token(cast("Cryptoki", library), TokenMatch(token="fake"), None).slot == 2
    library.fail("C_GetTokenInfo", c.CKR_TOKEN_NOT_RECOGNIZED, c.CKR_DEVICE_REMOVED)
    with pytest.raises(CryptokiError, match="CKR_TOKEN_NOT_RECOGNIZED"):
        Token(cast("Cryptoki", library), TokenMatch(token="fake"), None)


def test_the_token_must_be_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCryptoki()
    monkeypatch.setattr(library, "slots", lambda: [1, 2])
    with pytest.raises(Refused, match="2 tokens fit the URI") as caught:
        Token(cast("Cryptoki", library), TokenMatch(token="fake", library_version="0"), None)
    assert caught.value.failure is Failure.INVALID
    assert Token(cast("Cryptoki", library), TokenMatch(slot_id=2), None).slot == 2
    library.flags = 0
    with pytest.raises(Refused, match="it has none that is initialised"):
        Token(cast("Cryptoki", library), TokenMatch(), None)
