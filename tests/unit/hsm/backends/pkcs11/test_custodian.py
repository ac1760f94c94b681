from __future__ import annotations

import threading
from typing import Any

import pytest

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import custodian as module
from hsm.backends.pkcs11.custodian import Custodian
from hsm.backends.pkcs11.messages import (
    Destroy,
    Done,
    Failed,
    Generate,
    KeysFound,
    ListKeys,
    Mac,
    ObjectMatch,
    Open,
    Opened,
    Sign,
    TokenMatch,
)
from hsm.backends.pkcs11.sessions import Session
from hsm.wire.schemes import KeyType, Scheme
from tests.support.fake_cryptoki import FakeCryptoki
from tests.support.token_worker import expect


class Play:
    """A custodian of a fake token with one key."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library = FakeCryptoki()
        self.library.initialize = self.library.finalize = lambda: None  # type: ignore[attr-defined]
        self.library.add_p256("web", b"\1")
        monkeypatch.setattr(module, "Cryptoki", lambda _path: self.library)
        self.started: list[Session] = []
        self.custodian = Custodian(self.started.extend)

    def open(self, sessions: int = 0, **changes: Any) -> Any:
        values: dict[str, Any] = {"token": TokenMatch(), "objects": ObjectMatch(), "pin": b"1234", **changes}
        return self.custodian.answer(Open(id=1, module="/lib.so", sessions=sessions, **values))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return Play(monkeypatch)


def test_opening_lists_the_keys_and_opens_the_sessions(play: Play) -> None:
    opened = expect(play.open(sessions=4), Opened)
    assert [key.label for key in opened.keys] == ["web"]
    assert (opened.token, opened.serial, opened.library) == ("fake", "0001", "Fake 1.0")
    assert len(play.started) == 4
    assert len(play.library.sessions) == 5
    assert play.library.calls.count("C_Login") == 1


def test_for_an_owner_no_signing_session_is_opened(play: Play) -> None:
    expect(play.open(), Opened)
    assert play.started == []
    assert len(play.library.sessions) == 1


@pytest.mark.parametrize("rv", [c.CKR_SESSION_COUNT, c.CKR_HOST_MEMORY])
def test_a_token_with_fewer_sessions_signs_with_those(play: Play, rv: int) -> None:
    play.library.fail("C_OpenSession", *[c.CKR_OK] * 4, rv)
    opened = expect(play.open(sessions=8), Opened)
    assert len(play.started) == 3
    assert "gives 3 of 8 sessions" in opened.left_out[0]


@pytest.mark.parametrize(
    ("at", "rv", "kind"),
    [
        ("C_GetSlotList", c.CKR_GENERAL_ERROR, "token_gone"),
        ("C_GetTokenInfo", c.CKR_TOKEN_NOT_PRESENT, "token_gone"),
        ("C_OpenSession", c.CKR_FUNCTION_FAILED, "busy"),
        ("C_Login", c.CKR_PIN_LOCKED, "pin_refused"),
        ("C_FindObjectsInit", c.CKR_MECHANISM_INVALID, "unfit"),
    ],
)
def test_an_opening_that_fails_says_where(play: Play, at: str, rv: int, kind: str) -> None:
    play.library.fail(at, rv)
    failed = expect(play.open(sessions=1), Failed)
    assert (failed.kind, failed.rv, failed.call) == (kind, rv, at)
    assert play.started == []


def test_a_listing_heals_its_session(play: Play) -> None:
    expect(play.open(), Opened)
    play.library.drop_sessions()
    found = expect(play.custodian.answer(ListKeys(id=2)), KeysFound)
    assert [key.label for key in found.keys] == ["web"]


def test_changes_are_made_in_a_session_of_their_own_that_ends_with_them(play: Play) -> None:
    expect(play.open(sessions=1), Opened)
    before = set(play.library.sessions)
    made = expect(play.custodian.answer(Generate(id=2, type=KeyType.P256, label="new")), KeysFound)
    assert play.library.sessions == before
    assert play.custodian.answer(Destroy(id=3, key=made.keys[0].ski)) == Done(id=3)
    play.library.fail("C_GenerateKeyPair", c.CKR_DEVICE_ERROR)
    expect(play.custodian.answer(Generate(id=4, type=KeyType.P256, label="new")), Failed)
    assert play.library.sessions == before
    assert play.library.calls.count("C_GenerateKeyPair") == 2  # a key is not made twice


def test_a_new_key_signs_at_once_without_being_listed(play: Play) -> None:
    expect(play.open(sessions=1), Opened)
    made = expect(play.custodian.answer(Generate(id=2, type=KeyType.P256, label="new")), KeysFound)
    assert play.started[0]._token.keys.keys() >= {made.keys[0].ski}


def test_handles_are_found_again_when_a_key_is_gone(play: Play) -> None:
    """A library may give a destroyed key's handle to a new one."""
    expect(play.open(sessions=1), Opened)
    (session,) = play.started
    made = expect(play.custodian.answer(Generate(id=2, type=KeyType.P256, label="new")), KeysFound).keys[0]
    session.sign(made.ski, Scheme.ECDSA_SHA256, bytes(32))
    session.sign(made.ski, Scheme.ECDSA_SHA256, bytes(32))
    assert play.custodian.answer(ListKeys(id=3)).__class__ is KeysFound
    play.library.calls.clear()
    session.sign(made.ski, Scheme.ECDSA_SHA256, bytes(32))
    assert play.library.calls == ["C_SignInit", "C_Sign"]  # nothing is gone, nothing is looked for
    web = next(key for key in session._token.keys.values() if key.found.label == "web")
    assert play.custodian.answer(Destroy(id=4, key=web.ski)) == Done(id=4)
    play.library.calls.clear()
    session.sign(made.ski, Scheme.ECDSA_SHA256, bytes(32))
    assert play.library.calls.count("C_FindObjectsInit") > 0
    assert play.library.calls.count("C_Login") == 0


def test_a_token_that_can_not_be_written_is_not_tried(play: Play) -> None:
    play.library.flags |= c.CKF_WRITE_PROTECTED
    expect(play.open(), Opened)
    failed = expect(play.custodian.answer(Generate(id=2, type=KeyType.P256, label="new")), Failed)
    assert (failed.kind, failed.detail) == ("unfit", "the token is write-protected")
    assert "C_GenerateKeyPair" not in play.library.calls


def test_what_it_does_not_do_is_answered(play: Play) -> None:
    expect(play.open(), Opened)
    failed = expect(play.custodian.answer(Sign(id=2, key=b"", scheme="ed25519", payload=b"")), Failed)
    assert failed.kind == "invalid"


def test_a_mac_without_its_key_is_refused(play: Play) -> None:
    expect(play.open(), Opened)
    failed = expect(play.custodian.answer(Mac(id=2, label="wrap", data=b"")), Failed)
    assert 'no secret key with the label "wrap"' in failed.detail


def test_a_mistake_of_the_program_is_an_answer(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(play.open(), Opened)

    def wrong(*_: object) -> None:
        raise ZeroDivisionError("1234")

    monkeypatch.setattr(play.library, "find", wrong)
    failed = expect(play.custodian.answer(ListKeys(id=2)), Failed)
    assert (failed.kind, failed.id) == ("broken", 2)
    assert "ZeroDivisionError" in failed.detail
    assert "1234" not in failed.detail


def test_closing_ends_everything(play: Play) -> None:
    ended = threading.Event()
    play.library.finalize = ended.set  # type: ignore[attr-defined]
    play.custodian.close()
    assert not ended.is_set()  # nothing was opened
    expect(play.open(), Opened)
    play.custodian.close()
    assert ended.is_set()
    assert play.library.sessions == set()
