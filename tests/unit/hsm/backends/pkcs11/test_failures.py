from __future__ import annotations

import pytest

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11.cryptoki import CryptokiError, LibraryProblem
from hsm.backends.pkcs11.failures import failed
from hsm.backends.pkcs11.messages import Failed
from hsm.backends.pkcs11.results import Failure, Refused
from hsm.backends.pkcs11.translate import TranslationError


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        (Refused(Failure.INVALID, "no such key"), "invalid", "no such key"),
        (LibraryProblem("it is no library"), "unfit", "it is no library"),
        (TranslationError("of 5 bytes"), "broken", "of 5 bytes"),
    ],
)
def test_errors_without_a_call(error: Exception, kind: str, detail: str) -> None:
    assert failed(7, error) == Failed(id=7, kind=kind, rv=0, call="", detail=detail)


def test_errors_of_the_library_name_call_and_code() -> None:
    answer = failed(7, CryptokiError(c.CKR_DEVICE_ERROR, "C_Sign"))
    assert (answer.kind, answer.rv, answer.call) == ("session_lost", 0x30, "C_Sign")
    assert answer.detail == "the session with the token was lost (C_Sign: CKR_DEVICE_ERROR)"


def test_mistakes_show_their_place_and_not_their_text() -> None:
    try:
        raise KeyError("pin 1234")
    except KeyError as error:
        answer = failed(7, error)
    assert answer.kind == "broken"
    assert "KeyError at test_failures.py:" in answer.detail
    assert "1234" not in answer.detail
