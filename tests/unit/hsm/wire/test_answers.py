"""Answers: errors of a node and what an answer means."""

from __future__ import annotations

import pytest

from hsm.wire.answers import PLAIN_CODES, encode_error, encode_plain_error, read_answer
from hsm.wire.codec import FrameReader, read_items
from hsm.wire.errors import ErrorCode
from hsm.wire.inflight import RequestKind
from hsm.wire.layout import OP_ERROR
from hsm.wire.messages import Failed, Ponged, Signed
from tests.support.vectors import load_vectors

SIGN, PING, LIST_KEYS = RequestKind


def items_of(frame: bytes) -> dict[int, bytes]:
    [(_request_id, body)] = FrameReader().frames(frame)
    return read_items(body)


def test_errors_are_the_hand_made_ones() -> None:
    extended, plain = load_vectors("extensions.hex"), load_vectors("keyless_v1.hex")
    assert encode_error(1, ErrorCode.BUSY, "queue full", 0.02, 512) == extended["error-busy"]
    assert encode_error(1, ErrorCode.CANCELLED, "", None, None) == extended["error-cancelled"]
    assert encode_plain_error(1, ErrorCode.BUSY) == plain["error-internal"]
    assert encode_plain_error(1, ErrorCode.DENIED) == plain["error-key-not-found"]


def test_every_code_of_the_extensions_has_a_plain_one() -> None:
    assert set(PLAIN_CODES) == {code for code in ErrorCode if code >= 0x80}
    assert all(plain < 0x80 for plain in PLAIN_CODES.values())


@pytest.mark.parametrize("code", list(ErrorCode))
@pytest.mark.parametrize("retry_after_s", [None, 0.0, 1.5])
@pytest.mark.parametrize("queue_depth", [None, 0, 7])
def test_errors_survive(code: ErrorCode, retry_after_s: float | None, queue_depth: int | None) -> None:
    items = items_of(encode_error(5, code, "why", retry_after_s, queue_depth))
    for kind in RequestKind:
        assert read_answer(5, kind, OP_ERROR, items) == Failed(5, code, "why", retry_after_s, queue_depth)


@pytest.mark.parametrize("number", [0, 12, 0x7F, 0x85, 0xFF])
def test_codes_of_other_versions_are_internal(number: int) -> None:
    answer = read_answer(5, SIGN, OP_ERROR, {0x11: b"\xff", 0x12: bytes((number,)), 0x83: b"so"})
    assert answer == Failed(5, ErrorCode.INTERNAL, f"error code {number}, which this version does not know; so")


def test_answers_fit_their_requests() -> None:
    assert read_answer(5, SIGN, 0xF0, {0x12: b"signature"}) == Signed(5, b"signature")
    assert read_answer(5, PING, 0xF2, {0x12: b"hello"}) == Ponged(5, b"hello")
    assert read_answer(5, PING, 0xF2, {}) == Ponged(5, b"")
    for kind, opcode in ((SIGN, 0xF2), (PING, 0xF0), (LIST_KEYS, 0xF2), (SIGN, 0x80)):
        answer = read_answer(5, kind, opcode, {0x12: b"hello"})
        assert isinstance(answer, Failed)
        assert answer.code is ErrorCode.INTERNAL
