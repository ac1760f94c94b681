"""Readers of bodies: any cut gives the same payload and the same end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.body import BodyProblem, BodyReader, ChunkedBody, LengthBody, UntilCloseBody, reader_for
from proxy.http.framing import Framing
from proxy.http.headers import LAST_CHUNK, chunk


def feed_all(reader: BodyReader, pieces: list[bytes]) -> tuple[bytes, bytes]:
    payload, rest = b"", b""
    for piece in pieces:
        if reader.is_complete:
            rest += piece
            continue
        parts, behind = reader.feed(piece)
        payload += b"".join(parts)
        rest += behind
    return payload, rest


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in cuts), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]  # noqa: RUF007


CUTS = st.lists(st.integers(0, 400), max_size=30)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), CUTS)
def test_chunks_come_back_whatever_the_cuts(chunks: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"".join(chunk([payload])) for payload in chunks) + LAST_CHUNK
    reader = ChunkedBody()
    assert feed_all(reader, cut(wire + b"NEXT", cuts)) == (b"".join(chunks), b"NEXT")
    assert reader.end_of_stream()


@given(st.binary(max_size=100), CUTS)
def test_length_body_ends_where_it_should(payload: bytes, cuts: list[int]) -> None:
    reader = LengthBody(len(payload))
    assert feed_all(reader, cut(payload + b"NEXT", cuts)) == (payload, b"NEXT")


@given(st.binary(max_size=60), CUTS)
def test_refusal_does_not_depend_on_the_cuts(data: bytes, cuts: list[int]) -> None:
    outcomes = []
    for pieces in ([data], cut(data, cuts), [data[i : i + 1] for i in range(len(data))]):
        reader = ChunkedBody()
        try:
            feed_all(reader, pieces)
            outcomes.append("complete" if reader.is_complete else "open")
        except BodyProblem:
            outcomes.append("refused")
    # An unfinished line may be refused at once or when it ends; completeness never differs.
    assert len({outcome == "complete" for outcome in outcomes}) == 1


def test_trailers_are_checked_and_dropped() -> None:
    reader = ChunkedBody()
    assert reader.feed(b"1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nNEXT") == ([b"a"], b"NEXT")


def test_unfinished_lines_are_bounded() -> None:
    for start in (b"5;" + b"a" * 300, b"0\r\nX: " + b"a" * 9000):
        reader = ChunkedBody()
        with pytest.raises(BodyProblem, match="too long"):
            feed_all(reader, [start[offset : offset + 1] for offset in range(len(start))])


def test_end_of_stream_tells_whether_a_body_is_whole() -> None:
    for reader, is_whole in ((LengthBody(2), False), (ChunkedBody(), False), (UntilCloseBody(), True)):
        reader.feed(b"1" if isinstance(reader, LengthBody) else b"5\r\nhel")
        assert reader.end_of_stream() is is_whole


def test_reader_fits_the_framing() -> None:
    assert reader_for(Framing.NONE, 0) is None
    assert isinstance(reader_for(Framing.LENGTH, 3), LengthBody)
    assert isinstance(reader_for(Framing.CHUNKED, 0), ChunkedBody)
    assert isinstance(reader_for(Framing.UNTIL_CLOSE, 0), UntilCloseBody)
