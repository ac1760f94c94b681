from __future__ import annotations

import pytest

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.results import Failure, classify, sentence


@pytest.mark.parametrize(
    ("rv", "call", "failure"),
    [
        (c.CKR_FUNCTION_FAILED, "C_Sign", Failure.BUSY),
        (c.CKR_HOST_MEMORY, "C_SignInit", Failure.BUSY),
        (c.CKR_DEVICE_MEMORY, "C_Sign", Failure.BUSY),
        (c.CKR_SESSION_COUNT, "C_OpenSession", Failure.BUSY),
        (c.CKR_FUNCTION_FAILED, "C_OpenSession", Failure.BUSY),
        (c.CKR_DEVICE_ERROR, "C_Sign", Failure.SESSION_LOST),
        (c.CKR_SESSION_HANDLE_INVALID, "C_SignInit", Failure.SESSION_LOST),
        (c.CKR_SESSION_CLOSED, "C_SignInit", Failure.SESSION_LOST),
        (c.CKR_OPERATION_ACTIVE, "C_SignInit", Failure.SESSION_LOST),
        (c.CKR_OPERATION_NOT_INITIALIZED, "C_Sign", Failure.SESSION_LOST),
        (c.CKR_TOKEN_NOT_PRESENT, "C_Sign", Failure.SESSION_LOST),
        (c.CKR_TOKEN_NOT_PRESENT, "C_OpenSession", Failure.TOKEN_GONE),
        (c.CKR_DEVICE_REMOVED, "C_FindObjects", Failure.SESSION_LOST),
        (c.CKR_DEVICE_REMOVED, "C_OpenSession", Failure.TOKEN_GONE),
        (c.CKR_DEVICE_ERROR, "C_OpenSession", Failure.TOKEN_GONE),
        (c.CKR_DEVICE_ERROR, "C_Initialize", Failure.TOKEN_GONE),
        (c.CKR_GENERAL_ERROR, "C_Sign", Failure.SESSION_LOST),
        (c.CKR_GENERAL_ERROR, "C_Initialize", Failure.TOKEN_GONE),
        (c.CKR_CRYPTOKI_NOT_INITIALIZED, "C_Sign", Failure.TOKEN_GONE),
        (c.CKR_SLOT_ID_INVALID, "C_OpenSession", Failure.TOKEN_GONE),
        (c.CKR_USER_NOT_LOGGED_IN, "C_SignInit", Failure.LOGGED_OUT),
        (c.CKR_KEY_HANDLE_INVALID, "C_SignInit", Failure.KEY_GONE),
        (c.CKR_OBJECT_HANDLE_INVALID, "C_GetAttributeValue", Failure.KEY_GONE),
        (c.CKR_PIN_INCORRECT, "C_Login", Failure.PIN_REFUSED),
        (c.CKR_PIN_LOCKED, "C_Login", Failure.PIN_REFUSED),
        (c.CKR_PIN_EXPIRED, "C_SignInit", Failure.PIN_REFUSED),
        (c.CKR_MECHANISM_INVALID, "C_SignInit", Failure.UNFIT),
        (c.CKR_KEY_FUNCTION_NOT_PERMITTED, "C_SignInit", Failure.UNFIT),
        (c.CKR_CANT_LOCK, "C_Initialize", Failure.UNFIT),
        (c.CKR_ARGUMENTS_BAD, "C_Sign", Failure.BROKEN),
        (c.CKR_BUFFER_TOO_SMALL, "C_Sign", Failure.BROKEN),
        (c.CKR_VENDOR_DEFINED + 5, "C_Sign", Failure.BROKEN),
    ],
)
def test_what_a_result_asks_for(rv: int, call: str, failure: Failure) -> None:
    assert classify(rv, call) is failure


def test_every_known_result_has_one_meaning_and_a_sentence() -> None:
    for rv, name in c.NAME_OF_RESULT.items():
        assert isinstance(classify(rv, "C_Sign"), Failure)
        assert sentence(rv, "C_Sign").endswith(f"(C_Sign: {name})")


def test_codes_of_makers_are_shown_as_numbers() -> None:
    assert sentence(0x80000187, "C_Sign") == "the token failed (C_Sign: CKR_VENDOR_DEFINED+0x187)"
    assert sentence(0x7777, "C_Sign") == "the token failed (C_Sign: CKR 0x7777)"


def test_a_wrong_pin_is_told_apart_from_a_locked_one() -> None:
    assert "is wrong; it is not tried again" in sentence(c.CKR_PIN_INCORRECT, "C_Login")
    assert "locked" in sentence(c.CKR_PIN_LOCKED, "C_Login")


def test_a_result_has_one_name() -> None:
    names = [name for name in vars(c) if name.startswith("CKR_") and name != "CKR_VENDOR_DEFINED"]
    assert sorted(names) == sorted(c.NAME_OF_RESULT.values())


def test_a_library_that_can_not_start_is_told_of_its_configuration() -> None:
    found = sentence(c.CKR_GENERAL_ERROR, "C_Initialize")
    assert found.startswith("the library can't start (C_Initialize: CKR_GENERAL_ERROR); ")
    assert "`environment`" in found
