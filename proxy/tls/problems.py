"""What is wrong with the TLS side of a config: one value per problem, and the error that carries all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class CertificateProblem:
    """One thing that is wrong, or soon will be, with one file of one site."""

    file: str
    site: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: site {self.site}: {self.reason}"


@dataclass(frozen=True, slots=True)
class OptionProblem:
    """One thing that is wrong with an option: `option` is its path in the config."""

    option: str
    reason: str

    def __str__(self) -> str:
        return f"{self.option}: {self.reason}"


TlsProblem: TypeAlias = CertificateProblem | OptionProblem


class CertificateProblems(Exception):
    """No contexts can be built; `problems` is everything that is wrong, and the text has one line for each."""

    def __init__(self, problems: Sequence[TlsProblem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))
