"""Problems know whose fault they are."""

from __future__ import annotations

from proxy.base.errors import ErrorSource, HttpReason
from proxy.http.problem import HttpProblem, bad_framing, bad_request, bad_response


def test_source_follows_the_reason() -> None:
    assert bad_request("x").source is bad_framing("x").source is ErrorSource.CLIENT
    assert bad_response("x").source is ErrorSource.UPSTREAM
    assert HttpProblem(500, HttpReason.INTERNAL, "x").source is ErrorSource.INTERNAL


def test_text_and_status() -> None:
    problem = bad_framing("Content-Length is repeated")
    assert str(problem) == "bad_framing: Content-Length is repeated"
    assert (problem.status, bad_response("x").status) == (400, 502)
