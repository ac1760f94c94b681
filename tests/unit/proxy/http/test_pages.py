"""Responses of our own."""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.base.errors import HttpReason
from proxy.http.pages import error_response
from proxy.http.problem import HttpProblem

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_error_response_is_whole_and_short() -> None:
    problem = HttpProblem(503, HttpReason.UPSTREAM_QUEUE_FULL, "too busy")
    body = b"503 Service Unavailable: too busy\n"
    assert (
        error_response(problem, to_head=False, connection=b"Connection: close\r\n", now=NOW)
        == (
            b"HTTP/1.1 503 Service Unavailable\r\nDate: Fri, 02 Jan 2026 03:04:05 GMT\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nCache-Control: no-store\r\n"
            b"Connection: close\r\n\r\n" % len(body)
        )
        + body
    )


def test_head_gets_no_body_and_405_says_what_is_allowed() -> None:
    problem = HttpProblem(405, HttpReason.UNSUPPORTED, "no")
    answer = error_response(problem, to_head=True, connection=b"", now=NOW)
    assert answer.endswith(b"\r\n\r\n")
    assert b"\r\nAllow: GET, " in answer
