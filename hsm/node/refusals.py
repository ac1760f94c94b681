"""How an operation of a token's owner is refused: data, whatever kind of token it was."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class RefusalReason(Enum):
    """Why an operation was refused; the value is the HTTP status that says so."""

    INVALID = 400
    NOT_FOUND = 404
    CONFLICT = 409
    UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Refusal:
    """An operation was refused and changed nothing."""

    reason: RefusalReason
    sentence: str
    """For people; holds no secret."""
