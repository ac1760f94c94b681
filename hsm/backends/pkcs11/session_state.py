"""What one session of a token is worth, and how a signature is made in it whatever happened before. Pure.

    step     done means                    a failure of any step means
    OPEN     there is a session            BUSY, UNFIT, INVALID, BROKEN   nothing is lost; the request ends
    LOGIN    private keys can be used      SESSION_LOST   forget session, login and handles; once more
    FIND     the key's handle is known     LOGGED_OUT     forget login and handles; once more
    SIGN     the request is answered       KEY_GONE       forget the key's handle; once more
                                           TOKEN_GONE     forget everything; the request ends
                                           PIN_REFUSED    forget login and handles; the request ends

"Once more" means once per request and kind of failure: a request ends after four tries at most. What was lost is made
good when the next step needs it, so no session is ever beyond repair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from hsm.backends.pkcs11.results import Failure

_ONCE_MORE = frozenset((Failure.SESSION_LOST, Failure.LOGGED_OUT, Failure.KEY_GONE))


class Step(Enum):
    """What has to be done next."""

    OPEN = "open"
    LOGIN = "login"
    FIND = "find"
    SIGN = "sign"


@dataclass(slots=True)
class SessionState:
    """What is known of one session. The login belongs to the whole process, so it is lost and made for all sessions."""

    is_open: bool = False
    is_logged_in: bool = False
    handles: dict[bytes, int] = field(default_factory=dict)
    """Handles of keys by SKI. They are good for this session and this login only."""

    def step(self, key: bytes) -> Step:
        """What must be done next to sign with `key`."""
        if not self.is_open:
            return Step.OPEN
        if not self.is_logged_in:
            return Step.LOGIN
        return Step.SIGN if key in self.handles else Step.FIND

    def opened(self, *, is_logged_in: bool) -> None:
        """There is a session. It may be logged in already, as others are."""
        self.is_open, self.is_logged_in = True, is_logged_in
        self.handles.clear()

    def logged_in(self) -> None:
        """There was a login: handles from before it may name other keys now."""
        self.is_logged_in = True
        self.handles.clear()

    def found(self, key: bytes, handle: int) -> None:
        """The key has this handle."""
        self.handles[key] = handle

    def lose(self, failure: Failure, key: bytes) -> None:
        """Forget what a failure of a request for `key` took away."""
        if failure in (Failure.SESSION_LOST, Failure.TOKEN_GONE):
            self.is_open = False
        if failure in (Failure.SESSION_LOST, Failure.TOKEN_GONE, Failure.LOGGED_OUT, Failure.PIN_REFUSED):
            self.is_logged_in = False
            self.handles.clear()
        if failure is Failure.KEY_GONE:
            self.handles.pop(key, None)


@dataclass(slots=True)
class Attempt:
    """One request on its way through a session's steps."""

    key: bytes
    spent: set[Failure] = field(default_factory=set)

    def goes_on_after(self, failure: Failure, state: SessionState) -> bool:
        """Take note of a failure, whichever step it was; False where the request ends with it."""
        state.lose(failure, self.key)
        if failure not in _ONCE_MORE or failure in self.spent:
            return False
        self.spent.add(failure)
        return True
