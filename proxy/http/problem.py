"""The one error of this room: what went wrong, whose fault it is and which status the client gets.

Does no I/O and knows no connection. `pages.py` turns it into a response, the observer counts its reason.
"""

from __future__ import annotations

from proxy.base.errors import ErrorSource, HttpReason, ProxyError

_CLIENT_REASONS = frozenset(
    {
        HttpReason.BAD_REQUEST,
        HttpReason.BAD_FRAMING,
        HttpReason.BAD_HOST,
        HttpReason.HEADERS_TOO_LARGE,
        HttpReason.BODY_TOO_LARGE,
        HttpReason.REQUEST_TIMEOUT,
        HttpReason.CLIENT_ABORTED,
        HttpReason.UNSUPPORTED,
    }
)


class HttpProblem(ProxyError):
    """A message that is refused, or an exchange that failed.

    `detail` is a fixed sentence of ours, never bytes of a peer, because it is shown to clients.
    """

    reason: HttpReason

    def __init__(self, status: int, reason: HttpReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.status = status

    @property
    def source(self) -> ErrorSource:  # type: ignore[override]  # here the reason tells whose fault it is
        """Client or upstream, after the reason."""
        if self.reason is HttpReason.INTERNAL:
            return ErrorSource.INTERNAL
        return ErrorSource.CLIENT if self.reason in _CLIENT_REASONS else ErrorSource.UPSTREAM


def bad_request(detail: str) -> HttpProblem:
    """A request that RFC 9112 does not allow."""
    return HttpProblem(400, HttpReason.BAD_REQUEST, detail)


def bad_framing(detail: str) -> HttpProblem:
    """A request of which two parsers could see different ends (RFC 9112 6.3, 11.2)."""
    return HttpProblem(400, HttpReason.BAD_FRAMING, detail)


def bad_response(detail: str) -> HttpProblem:
    """A response of an upstream that RFC 9112 does not allow."""
    return HttpProblem(502, HttpReason.UPSTREAM_BAD_RESPONSE, detail)
