"""Where a body ends (RFC 9112 6): the strict rules, pure, over the values of two fields.

Stricter than the RFC on purpose: what it allows a recipient to repair is refused here, because a repaired message is
one that somebody else on the way may have read differently. `body.py` obeys what is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from proxy.base.errors import HttpReason
from proxy.http.problem import HttpProblem, bad_framing, bad_response

_LENGTH = re.compile(rb"[0-9]{1,18}")


class Framing(Enum):
    """How the end of a body is found."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


# Looking up an enum's attribute costs five times a global's in CPython 3.11, a dozen times a request.
NONE, LENGTH, CHUNKED, UNTIL_CLOSE = Framing.NONE, Framing.LENGTH, Framing.CHUNKED, Framing.UNTIL_CLOSE
NO_BODY = (NONE, 0)


def request_framing(minor: int, lengths: Sequence[bytes], codings: Sequence[bytes]) -> tuple[Framing, int]:
    """Decide for a request from its Content-Length and Transfer-Encoding values. Raises HttpProblem 400 or 501."""
    if codings:
        return _request_coding(minor, lengths, codings)
    if not lengths:
        return NO_BODY
    if len(lengths) > 1:
        raise bad_framing("Content-Length is repeated")
    if not _LENGTH.fullmatch(lengths[0]):
        raise bad_framing("Content-Length is not one number")
    length = int(lengths[0])
    return (LENGTH, length) if length else NO_BODY


def _request_coding(minor: int, lengths: Sequence[bytes], codings: Sequence[bytes]) -> tuple[Framing, int]:
    if lengths:
        raise bad_framing("Transfer-Encoding together with Content-Length")
    if minor == 0:
        raise bad_framing("Transfer-Encoding in an HTTP/1.0 request")
    if len(codings) > 1:
        raise bad_framing("Transfer-Encoding is repeated")
    coding = codings[0].lower()
    if coding == b"chunked":
        return CHUNKED, 0
    names = [name.strip(b" \t") for name in coding.split(b",")]
    if names[-1] == b"chunked" and names.count(b"chunked") == 1 and all(names):
        # RFC 9112 6.1: a coding that the server does not understand gets 501.
        raise HttpProblem(501, HttpReason.UNSUPPORTED, "only the transfer coding chunked is supported")
    raise bad_framing("Transfer-Encoding is not chunked")


def response_framing(
    status: int, minor: int, lengths: Sequence[bytes], codings: Sequence[bytes], *, to_head: bool
) -> tuple[Framing, int]:
    """Decide for a response (RFC 9112 6.3). `to_head`: it answers HEAD. Raises HttpProblem 502.

    Where there is no body the length is what Content-Length announced, or -1 where it is absent.
    """
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise bad_response("the upstream's Content-Length is repeated or not one number")
    if codings and (lengths or minor == 0 or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise bad_response("the upstream's Transfer-Encoding is not plain chunked")
    length = int(lengths[0]) if lengths else -1
    if to_head or status < 200 or status in (204, 304):
        return NONE, length
    if codings:
        return CHUNKED, 0
    if length == 0:
        return NO_BODY
    return (LENGTH, length) if length > 0 else (UNTIL_CLOSE, 0)
