"""The PIN on its way from its source to a worker, and the mark by which a refused one is known again."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from hsm.backends.pkcs11.commands import RefusedPins
from hsm.backends.pkcs11.pin import PinSource
from hsm.shared.logs import Secret

_mark_key = os.urandom(32)
"""Marks mean something in this process only."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a token is opened with."""

    pin: Secret[bytes] | None
    mark: bytes
    """Equal for equal PINs; the PIN can't be told from it."""


class LoginSource:
    """Gives the PIN as the token wants it. What works with one token shares one of these, and with it `refused`."""

    def __init__(self, source: PinSource | None, user: str = "") -> None:
        self._source = source
        self._user = user
        self.refused = RefusedPins()
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def turn(self, patience_s: float) -> Iterator[bool]:
        """Whoever tries the PIN takes its turn, and so hears first whether the token refused it: tokens lock themselves
        after a few wrong ones, which many at once would be. False after `patience_s`. Blocks."""
        is_ours = self._turn.acquire(timeout=patience_s)
        try:
            yield is_ours
        finally:
            if is_ours:
                self._turn.release()

    def read(self) -> Login:
        """Read it anew where its source can change. Blocks. Raises PinProblem."""
        if self._source is None:
            return Login(None, b"no login")
        pin = self._source.read().reveal()
        if self._user:
            pin = self._user.encode() + b":" + pin  # AWS CloudHSM: the crypto user and its password
        return Login(Secret(pin), hmac.digest(_mark_key, pin, hashlib.sha256))
