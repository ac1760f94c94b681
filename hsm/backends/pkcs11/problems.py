"""Why a token refused its owner, or could not be used: an enum to branch on, and a sentence to show."""

from __future__ import annotations

from enum import StrEnum

from hsm.backends.pkcs11.messages import Failed
from hsm.backends.pkcs11.results import Failure


class WorkerProblem(Exception):
    """A token worker could not do what it was asked. `str()` is a sentence for the user and holds no secret."""

    def __init__(self, kind: Failure, sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind = kind
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class ProblemKind(StrEnum):
    """What kind of refusal it is."""

    NOT_FOUND = "not_found"
    EXISTS = "exists"
    INVALID = "invalid"
    """The label, subject, name, number, attributes or PEM is not acceptable, or the token can't do it."""
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    """The token or the book of its keys can't be used now."""


class Pkcs11Problem(Exception):
    """A token refused its owner. `str()` is a sentence for the user and holds no secret."""

    def __init__(self, kind: ProblemKind, sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind = kind
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


def failure_of(answer: Failed) -> Failure:
    """The kind of a failed answer; BROKEN for one of a newer worker."""
    try:
        return Failure(answer.kind)
    except ValueError:
        return Failure.BROKEN


def problem_of(problem: WorkerProblem) -> Pkcs11Problem:
    """What a worker's problem is to the owner."""
    is_refused = problem.kind in (Failure.INVALID, Failure.UNFIT)
    return Pkcs11Problem(ProblemKind.INVALID if is_refused else ProblemKind.UNAVAILABLE, problem.sentence)
