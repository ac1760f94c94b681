"""What the result of a PKCS#11 call means: CKR codes as data. Pure."""

from __future__ import annotations

from enum import StrEnum

from hsm.backends.pkcs11 import constants as c


class Failure(StrEnum):
    """What a failed call asks for."""

    BUSY = "busy"
    """The token has too much to do (CKR_FUNCTION_FAILED, CKR_HOST_MEMORY, CKR_DEVICE_MEMORY): try elsewhere."""
    SESSION_LOST = "session_lost"
    """The session is gone, or the device had a fault: a new session may help."""
    LOGGED_OUT = "logged_out"
    """The session is good, the login is not."""
    TOKEN_GONE = "token_gone"
    """There is no token, or no library any more: everything must be opened anew."""
    KEY_GONE = "key_gone"
    """The handle names no key: look for the key again."""
    PIN_REFUSED = "pin_refused"
    """The PIN is wrong, expired or locked. It must not be tried again: tokens lock themselves."""
    UNFIT = "unfit"
    """The token can't do this with this key (mechanism, size, attributes): it never will."""
    INVALID = "invalid"
    """The request is wrong: no such key, a label that is taken, a key of an unknown kind."""
    BROKEN = "broken"
    """Anything else."""


_ANYWHERE = {
    Failure.BUSY: (
        *(c.CKR_FUNCTION_FAILED, c.CKR_HOST_MEMORY, c.CKR_DEVICE_MEMORY),
        *(c.CKR_SESSION_COUNT, c.CKR_TOKEN_RESOURCE_EXCEEDED, c.CKR_FUNCTION_CANCELED, c.CKR_CANCEL),
    ),
    Failure.SESSION_LOST: (
        *(c.CKR_DEVICE_ERROR, c.CKR_SESSION_HANDLE_INVALID, c.CKR_SESSION_CLOSED),
        # Something of an earlier call is left in the session, or something of this one is not there any more.
        *(c.CKR_OPERATION_ACTIVE, c.CKR_OPERATION_NOT_INITIALIZED, c.CKR_OPERATION_CANCEL_FAILED),
        # "Some horrible, unrecoverable error" (2.40, 5.1.1). It may be the key's, so the library is not given up.
        c.CKR_GENERAL_ERROR,
        *(c.CKR_TOKEN_NOT_PRESENT, c.CKR_DEVICE_REMOVED),
    ),
    Failure.LOGGED_OUT: (c.CKR_USER_NOT_LOGGED_IN,),
    Failure.TOKEN_GONE: (
        *(c.CKR_CRYPTOKI_NOT_INITIALIZED, c.CKR_SLOT_ID_INVALID, c.CKR_TOKEN_NOT_RECOGNIZED),
        *(c.CKR_LIBRARY_LOAD_FAILED, c.CKR_FIPS_SELF_TEST_FAILED),
    ),
    Failure.KEY_GONE: (c.CKR_KEY_HANDLE_INVALID, c.CKR_OBJECT_HANDLE_INVALID),
    Failure.PIN_REFUSED: (
        *(c.CKR_PIN_INCORRECT, c.CKR_PIN_INVALID, c.CKR_PIN_LEN_RANGE, c.CKR_PIN_EXPIRED, c.CKR_PIN_LOCKED),
        *(c.CKR_PIN_TOO_WEAK, c.CKR_NEW_PIN_MODE, c.CKR_NEXT_OTP),
        *(c.CKR_USER_PIN_NOT_INITIALIZED, c.CKR_USER_TYPE_INVALID),
        *(c.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, c.CKR_USER_TOO_MANY_TYPES),
    ),
    Failure.UNFIT: (
        *(c.CKR_NEED_TO_CREATE_THREADS, c.CKR_CANT_LOCK, c.CKR_FUNCTION_NOT_SUPPORTED, c.CKR_FUNCTION_REJECTED),
        *(c.CKR_ATTRIBUTE_READ_ONLY, c.CKR_ATTRIBUTE_SENSITIVE, c.CKR_ATTRIBUTE_TYPE_INVALID),
        *(c.CKR_ATTRIBUTE_VALUE_INVALID, c.CKR_ACTION_PROHIBITED, c.CKR_DATA_INVALID, c.CKR_DATA_LEN_RANGE),
        *(c.CKR_KEY_SIZE_RANGE, c.CKR_KEY_TYPE_INCONSISTENT, c.CKR_KEY_FUNCTION_NOT_PERMITTED, c.CKR_KEY_EXHAUSTED),
        *(c.CKR_MECHANISM_INVALID, c.CKR_MECHANISM_PARAM_INVALID, c.CKR_PUBLIC_KEY_INVALID),
        *(c.CKR_TEMPLATE_INCOMPLETE, c.CKR_TEMPLATE_INCONSISTENT, c.CKR_DOMAIN_PARAMS_INVALID),
        *(c.CKR_CURVE_NOT_SUPPORTED, c.CKR_TOKEN_WRITE_PROTECTED, c.CKR_SESSION_READ_ONLY),
        *(c.CKR_SESSION_PARALLEL_NOT_SUPPORTED, c.CKR_RANDOM_NO_RNG),
    ),
}
_FAILURE_OF = {rv: failure for failure, rvs in _ANYWHERE.items() for rv in rvs}
_OPENING = frozenset(("C_Initialize", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo", "C_OpenSession"))
_GONE_WHILE_OPENING = frozenset(
    (c.CKR_DEVICE_ERROR, c.CKR_GENERAL_ERROR, c.CKR_TOKEN_NOT_PRESENT, c.CKR_DEVICE_REMOVED)
)


def classify(rv: int, call: str) -> Failure:
    """What a result other than CKR_OK asks for. `call` is the name of the function that gave it.

    A session that works no more may be replaced by a new one; where not even that can be opened, the token is gone.
    """
    if call in _OPENING and rv in _GONE_WHILE_OPENING:
        return Failure.TOKEN_GONE
    return _FAILURE_OF.get(rv, Failure.BROKEN)


_SENTENCES = {
    Failure.BUSY: "the token has too much to do",
    Failure.SESSION_LOST: "the session with the token was lost",
    Failure.LOGGED_OUT: "the token wants a login",
    Failure.TOKEN_GONE: "the token is not there",
    Failure.KEY_GONE: "the key is not in the token any more",
    Failure.PIN_REFUSED: "the token refuses the PIN",
    Failure.UNFIT: "the token can't do this with this key",
    Failure.INVALID: "the request is wrong",
    Failure.BROKEN: "the token failed",
}
_SENTENCE_OF = {
    c.CKR_PIN_INCORRECT: "the PIN is wrong; it is not tried again, so that the token does not lock itself",
    c.CKR_PIN_LEN_RANGE: "the PIN is too short or too long for the token",
    c.CKR_PIN_EXPIRED: "the PIN has expired; set a new one with the maker's tools",
    c.CKR_PIN_LOCKED: "the PIN is locked after too many wrong ones; its security officer can unlock it",
    c.CKR_USER_PIN_NOT_INITIALIZED: "the token has no user PIN yet; initialise it with the maker's tools",
    c.CKR_CANT_LOCK: "the library can't be used by several threads",
    c.CKR_SESSION_COUNT: "the token gives no more sessions",
    c.CKR_TOKEN_WRITE_PROTECTED: "the token is write-protected",
    c.CKR_MECHANISM_INVALID: "the token does not know the mechanism",
    c.CKR_CURVE_NOT_SUPPORTED: "the token does not know the curve",
}


CONFIGURED = "does the library find its configuration? `environment` gives it the variables it looks for"
"""The usual reason for a library that works elsewhere and shows nothing here."""


def sentence(rv: int, call: str) -> str:
    """For people: what happened, with the call and the code."""
    what = _SENTENCE_OF.get(rv) or _SENTENCES[classify(rv, call)]
    if call == "C_Initialize" and classify(rv, call) is Failure.TOKEN_GONE:
        return f"the library can't start ({call}: {c.result_name(rv)}); {CONFIGURED}"
    return f"{what} ({call}: {c.result_name(rv)})"


class Refused(Exception):
    """A request can't be done, and no call of the library is at fault. `sentence` is for people, without secrets."""

    def __init__(self, failure: Failure, sentence: str) -> None:
        super().__init__(failure, sentence)
        self.failure = failure
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence
