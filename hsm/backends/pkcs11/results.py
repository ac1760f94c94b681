"""What the result of a PKCS#11 call means: CKR codes as data. Pure."""

from __future__ import annotations

from enum import StrEnum


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
