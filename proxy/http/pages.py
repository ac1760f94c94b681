"""The responses that are ours: short plain text, for every status this proxy answers with by itself. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus

from proxy.http.problem import HttpProblem

_ALLOWED = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"


def error_response(problem: HttpProblem, *, to_head: bool, connection: bytes, now: datetime | None = None) -> bytes:
    """Return the whole response to a request that failed; `connection` is the Connection line or b"".

    To HEAD the body is left out, its length stays (RFC 9110 9.3.2).
    """
    phrase = HTTPStatus(problem.status).phrase
    body = f"{problem.status} {phrase}: {problem.detail}\n".encode()
    date = format_datetime(now or datetime.now(UTC), usegmt=True).encode()
    head = (
        b"HTTP/1.1 %d %b\r\nDate: %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\nCache-Control: no-store\r\n%b%b\r\n"
    ) % (
        problem.status,
        phrase.encode(),
        date,
        len(body),
        _ALLOWED if problem.status == 405 else b"",
        connection,
    )
    return head if to_head else head + body
