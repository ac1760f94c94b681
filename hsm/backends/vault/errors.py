"""Why the vault refused an administrator: an enum to branch on, and a sentence to show."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum

from hsm.backends.x509_forms import FormProblem
from hsm.store.errors import StoreError, StoreReason


class VaultReason(StrEnum):
    """What kind of refusal it is."""

    NOT_FOUND = "not_found"
    EXISTS = "exists"
    INVALID = "invalid"
    """The label, subject, name, number or PEM is not acceptable."""
    CONFLICT = "conflict"
    """Somebody else changed the key meanwhile; try again."""
    UNAVAILABLE = "unavailable"
    """The store could not be opened, read or written."""
    TAMPERED = "tampered"


class VaultError(Exception):
    """The vault refused; nothing was changed. `str()` is a sentence for the user and holds no secret."""

    def __init__(self, reason: VaultReason, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


_FROM_STORE = {
    StoreReason.CONFLICT: VaultReason.CONFLICT,
    StoreReason.EXISTS: VaultReason.EXISTS,
    StoreReason.INVALID: VaultReason.INVALID,
    StoreReason.TAMPERED: VaultReason.TAMPERED,
}


@contextlib.contextmanager
def store_errors_translated() -> Iterator[None]:
    """Within it, errors of the store become errors of the vault."""
    try:
        yield
    except StoreError as error:
        raise VaultError(_FROM_STORE.get(error.reason, VaultReason.UNAVAILABLE), str(error)) from None


@contextlib.contextmanager
def form_problems_translated() -> Iterator[None]:
    """Within it, subjects, names and numbers that can't be certified become errors of the vault."""
    try:
        yield
    except FormProblem as problem:
        raise VaultError(VaultReason.INVALID, problem.sentence) from None
