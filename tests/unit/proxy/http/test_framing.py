"""The table of RFC 9112 6.3, and what is refused beyond it."""

from __future__ import annotations

import pytest

from proxy.base.errors import HttpReason
from proxy.http.framing import NO_BODY, Framing, request_framing, response_framing
from proxy.http.problem import HttpProblem


@pytest.mark.parametrize(
    ("minor", "lengths", "codings", "expected"),
    [
        (1, [], [], NO_BODY),
        (1, [b"0"], [], NO_BODY),
        (1, [b"5"], [], (Framing.LENGTH, 5)),
        (1, [b"005"], [], (Framing.LENGTH, 5)),
        (0, [b"5"], [], (Framing.LENGTH, 5)),
        (1, [], [b"chunked"], (Framing.CHUNKED, 0)),
        (1, [], [b"CHUNKED"], (Framing.CHUNKED, 0)),
    ],
)
def test_request_framing(minor: int, lengths: list[bytes], codings: list[bytes], expected: object) -> None:
    assert request_framing(minor, lengths, codings) == expected


@pytest.mark.parametrize(
    ("lengths", "codings", "status"),
    [
        ([b"5", b"5"], [], 400),
        ([b"5, 5"], [], 400),
        ([b""], [], 400),
        ([b"5"], [b"chunked"], 400),
        ([], [b"chunked", b"chunked"], 400),
        ([], [b"deflate, chunked"], 501),
        ([], [b", chunked"], 400),
        ([], [b"chunked, identity"], 400),
        ([], [b""], 400),
    ],
)
def test_refused_request_framing(lengths: list[bytes], codings: list[bytes], status: int) -> None:
    with pytest.raises(HttpProblem) as caught:
        request_framing(1, lengths, codings)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "lengths", "codings", "to_head", "expected"),
    [
        (200, [], [], False, (Framing.UNTIL_CLOSE, 0)),
        (200, [b"0"], [], False, NO_BODY),
        (200, [b"7"], [], False, (Framing.LENGTH, 7)),
        (200, [], [b"chunked"], False, (Framing.CHUNKED, 0)),
        (200, [b"7"], [], True, (Framing.NONE, 7)),
        (200, [], [b"chunked"], True, (Framing.NONE, -1)),
        (204, [], [], False, (Framing.NONE, -1)),
        (304, [b"7"], [], False, (Framing.NONE, 7)),
        (103, [], [], False, (Framing.NONE, -1)),
    ],
)
def test_response_framing(
    status: int, lengths: list[bytes], codings: list[bytes], to_head: bool, expected: object
) -> None:
    assert response_framing(status, 1, lengths, codings, to_head=to_head) == expected


@pytest.mark.parametrize(
    ("minor", "lengths", "codings"),
    [(1, [b"1", b"1"], []), (1, [b"x"], []), (1, [b"1"], [b"chunked"]), (0, [], [b"chunked"]), (1, [], [b"gzip"])],
)
def test_refused_response_framing(minor: int, lengths: list[bytes], codings: list[bytes]) -> None:
    with pytest.raises(HttpProblem) as caught:
        response_framing(200, minor, lengths, codings, to_head=False)
    assert (caught.value.status, caught.value.reason) == (502, HttpReason.UPSTREAM_BAD_RESPONSE)
