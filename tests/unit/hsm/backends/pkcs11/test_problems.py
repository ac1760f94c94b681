"""What went wrong with a token, as its owner hears it."""

from __future__ import annotations

import pytest

from hsm.backends.pkcs11.messages import Failed
from hsm.backends.pkcs11.problems import ProblemKind, WorkerProblem, failure_of, problem_of
from hsm.backends.pkcs11.results import Failure


@pytest.mark.parametrize("kind", Failure)
def test_a_workers_problem_is_the_owners_or_the_tokens(kind: Failure) -> None:
    problem = problem_of(WorkerProblem(kind, "a sentence"))
    is_the_owners = kind in (Failure.INVALID, Failure.UNFIT)
    assert problem.kind is (ProblemKind.INVALID if is_the_owners else ProblemKind.UNAVAILABLE)
    assert str(problem) == "a sentence"


@pytest.mark.parametrize("kind", Failure)
def test_the_kind_of_a_failed_answer_is_read(kind: Failure) -> None:
    assert failure_of(Failed(id=1, kind=kind.value, rv=0, call="", detail="")) is kind


def test_a_kind_of_a_newer_worker_is_no_crash() -> None:
    assert failure_of(Failed(id=1, kind="on fire", rv=0, call="", detail="")) is Failure.BROKEN
