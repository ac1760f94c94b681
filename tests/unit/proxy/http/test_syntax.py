"""Heads: collected whatever the reads are, checked as a whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.syntax import (
    HeadCollector,
    HeadTooLarge,
    SyntaxProblem,
    is_field_line,
    parse_request,
    parse_response,
)

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n"


@given(st.lists(st.integers(0, len(HEAD) + 6), max_size=10))
def test_collector_gives_the_same_head_for_any_cuts(cuts: list[int]) -> None:
    collector = HeadCollector(1000, skips_empty_lines=True)
    stream = b"\r\n" + HEAD + b"rest"
    edges = [0, *sorted(cuts), len(stream)]
    found, after = None, b""
    for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        piece = stream[start:end]
        if found is not None:
            after += piece
        elif (result := collector.feed(piece)) is not None:
            found, after = result
    assert (found, after) == (HEAD, b"rest")


def test_collector_tells_what_was_too_long() -> None:
    with pytest.raises(HeadTooLarge) as caught:
        HeadCollector(20, skips_empty_lines=True).feed(b"GET /" + b"a" * 30)
    assert caught.value.is_first_line
    with pytest.raises(HeadTooLarge) as caught:
        HeadCollector(20, skips_empty_lines=True).feed(HEAD)
    assert not caught.value.is_first_line


def test_collector_holds_no_more_than_its_limit() -> None:
    collector = HeadCollector(100, skips_empty_lines=True)
    for _ in range(100):
        assert collector.feed(b"a") is None
    with pytest.raises(HeadTooLarge):
        collector.feed(b"a")


def test_two_empty_lines_are_forgiven_and_no_third() -> None:
    collector = HeadCollector(100, skips_empty_lines=True)
    assert collector.feed(b"\r\n") is None
    assert collector.has_started
    assert collector.feed(b"\r") is None
    assert collector.feed(b"\n" + HEAD) == (HEAD, b"")
    with pytest.raises(SyntaxProblem, match="empty lines"):
        collector.feed(b"\r\n\r\n\r\n" + HEAD)


def test_empty_line_before_a_response_is_refused() -> None:
    collector = HeadCollector(100, skips_empty_lines=False)
    head, _ = collector.feed(b"\r\nHTTP/1.1 200 OK\r\n\r\n") or (b"", b"")
    with pytest.raises(SyntaxProblem):
        parse_response(head)


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\rX", b"GET /\x00", b"\n"])
def test_head_that_cannot_become_valid_is_refused_early(start: bytes) -> None:
    with pytest.raises(SyntaxProblem):
        HeadCollector(1000, skips_empty_lines=True).feed(start)


def test_lines_are_parsed() -> None:
    assert parse_request(b"M-SEARCH /a?b HTTP/1.0\r\n\r\n") == (b"M-SEARCH", b"/a?b", 1, 0, 24)
    assert parse_response(b"HTTP/1.1 404 Not Found\r\n\r\n") == (1, 404, b"Not Found", 24)
    assert parse_response(b"HTTP/1.1 200\r\n\r\n") == (1, 200, b"", 14)
    for line in (b"HTTP/1.1 2000 OK\r\n", b"HTTP/1.1  200 OK\r\n", b"HTTP/1.1 099 OK\r\n", b"http/1.1 200 OK\r\n"):
        with pytest.raises(SyntaxProblem):
            parse_response(line + b"\r\n")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"A: b\r\n c\r\n", "folded"),
        (b"A : b\r\n", "before the colon"),
        (b"A\r\n", "name"),
        (b"A(: b\r\n", "name"),
        (b"A: \x00\r\n", "NUL"),
        (b"A: b\nC: d\r\n", "bare LF"),
        (b"A: \x01\r\n", "control character"),
    ],
)
def test_refusals_say_what_is_wrong(lines: bytes, words: str) -> None:
    with pytest.raises(SyntaxProblem, match=words):
        parse_request(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")


def test_good_fields_pass() -> None:
    assert parse_request(b"GET / HTTP/1.1\r\nA:b\r\nC: \xe9 d\t\r\nE:\r\n\r\n")[4] == 16
    assert is_field_line(b"A: b\r\n")
    assert not is_field_line(b"A: b\r\nC: d\r\n\r\n")
    assert not is_field_line(b"\r\n")
