"""Frames and items: round trips, strict lengths, any cut of the stream."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire import codec
from hsm.wire.codec import FrameReader, encode_frame, read_items
from hsm.wire.errors import MalformedMessage, VersionMismatch
from hsm.wire.layout import ITEM_LENGTHS, TAG_OPCODE
from tests.support.vectors import load_vectors

PLAIN = load_vectors("keyless_v1.hex")
BODY = slice(8, None)


@st.composite
def items(draw: st.DrawFn) -> dict[int, bytes]:
    """Items of a sound message: an opcode and others of allowed lengths."""
    tags = draw(st.sets(st.integers(0, 255), max_size=12)) | {TAG_OPCODE}
    found = {}
    for tag in tags:
        if tag in ITEM_LENGTHS:
            length = draw(st.sampled_from(ITEM_LENGTHS[tag]))
            found[tag] = draw(st.binary(min_size=length, max_size=length))
        else:
            found[tag] = draw(st.binary(max_size=300))
    return dict(draw(st.permutations(list(found.items()))))


REQUEST_IDS = st.integers(0, 0xFFFF_FFFF)
FRAMES = st.lists(st.tuples(REQUEST_IDS, items()), max_size=6)


@given(FRAMES)
def test_what_is_encoded_is_decoded_again(frames: list[tuple[int, dict[int, bytes]]]) -> None:
    stream = b"".join(encode_frame(request_id, found.items()) for request_id, found in frames)
    decoded = [(request_id, read_items(body)) for request_id, body in FrameReader().frames(stream)]
    assert decoded == frames


@given(FRAMES, st.data())
def test_frames_are_the_same_however_the_stream_is_cut(
    frames: list[tuple[int, dict[int, bytes]]], data: st.DataObject
) -> None:
    stream = b"".join(encode_frame(request_id, found.items()) for request_id, found in frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=20)) | {0, len(stream)})
    reader = FrameReader()
    pieces = [stream[start:stop] for start, stop in pairwise(cuts)]
    decoded = [frame for piece in pieces for frame in reader.frames(piece)]
    assert [(request_id, read_items(body)) for request_id, body in decoded] == frames


@given(st.binary(max_size=400))
def test_any_body_is_read_or_malformed(body: bytes) -> None:
    try:
        found = read_items(body)
    except MalformedMessage:
        return
    assert len(found[TAG_OPCODE]) == 1
    assert sum(3 + len(data) for data in found.values()) == len(body)


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_stream_gives_frames_or_a_wire_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            for request_id, body in reader.frames(piece):
                assert 0 <= request_id <= 0xFFFF_FFFF
                assert len(body) <= 65_535
    except VersionMismatch:
        return


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty-body", "the opcode is missing"),
        ("opcode-missing", "the opcode is missing"),
        ("opcode-two-bytes", "item 0x11 is 2 bytes long"),
        ("opcode-twice", "item 0x11 occurs twice"),
        ("padding-twice", "item 0x20 occurs twice"),
        ("ski-19-bytes", "item 0x04 is 19 bytes long"),
        ("client-ip-5-bytes", "item 0x03 is 5 bytes long"),
        ("item-longer-than-body", "item 0x12 is longer than the message"),
        ("bytes-after-last-item", "bytes after the last item"),
    ],
)
def test_a_malformed_body_is_named(name: str, reason: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        read_items(PLAIN[name][BODY])
    assert caught.value.reason == reason


def test_items_of_a_hand_made_frame() -> None:
    [(request_id, body)] = FrameReader().frames(PLAIN["sign-ed25519-with-names"])
    assert request_id == 0x01020304
    assert read_items(body) == {
        0x11: b"\x18",
        0x04: bytes(range(20)),
        0x12: b"TLS 1.3",
        0x02: b"example.org",
        0x03: bytes((192, 0, 2, 7)),
    }


def test_frames_before_another_major_version_are_delivered() -> None:
    frames = FrameReader().frames(PLAIN["ping"] + PLAIN["major-2"])
    assert next(frames) == (1, PLAIN["ping"][BODY])
    with pytest.raises(VersionMismatch, match="major version 2") as caught:
        next(frames)
    assert caught.value.request_id == 1


def test_the_largest_frame_in_single_bytes_is_collected_in_one_buffer() -> None:
    frame = encode_frame(5, [(TAG_OPCODE, b"\xf1"), (0x12, bytes(65_535 - 4 - 3))])
    assert len(frame) == 8 + 65_535
    reader = FrameReader()
    buffer = reader._partial
    assert list(reader.frames(frame[:9])) == []
    assert reader._needed == len(frame)  # until then bytes are collected and not looked at
    frame = frame[9:]
    found = [whole for position in range(len(frame)) for whole in reader.frames(frame[position : position + 1])]
    assert [(request_id, len(body)) for request_id, body in found] == [(5, 65_535)]
    # A new buffer for each byte would copy 2 GB for this frame.
    assert reader._partial is buffer
    assert not buffer


def test_other_kinds_of_buffers_are_taken() -> None:
    for kind in (bytes, bytearray, memoryview):
        reader = FrameReader()
        data = kind(PLAIN["ping"])
        assert list(reader.frames(data[:9])) == []
        [(_request_id, body)] = reader.frames(data[9:])
        assert type(body) is bytes
        assert body == PLAIN["ping"][BODY]


def test_what_does_not_fit_a_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        codec.encode_item(0x12, bytes(65_536))
    with pytest.raises(ValueError, match="at most 65535 bytes of items, not 65536"):
        encode_frame(1, [(0x12, bytes(65_533))])
    assert len(encode_frame(1, [(0x12, bytes(65_532))])) == 8 + 65_535
    with pytest.raises(ValueError, match="at most 65535"):
        codec.encode_with_payload(1, 0xF0, bytes(65_529))


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [(0.25, 250), (0.0009, 0), (0.0, 0), (-3.0, 0), (1e12, 0xFFFF_FFFF), (float("inf"), 0xFFFF_FFFF), (1.9999, 1999)],
)
def test_milliseconds_are_rounded_down_and_bounded(seconds: float, wanted: int) -> None:
    assert codec.milliseconds(seconds) == wanted


def test_u32_takes_the_nearest_value_that_fits() -> None:
    assert codec.encode_u32(-1) == bytes(4)
    assert codec.encode_u32(1 << 40) == b"\xff\xff\xff\xff"
    assert codec.decode_u32(b"\x00\x00\x02\x00") == 512
