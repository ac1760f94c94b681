"""Frames and items <-> bytes.

Strict on lengths, and blind to meaning: sessions decide what an opcode does. Raises `MalformedMessage` for faults
inside a sound frame and other `WireError`s for faults of framing; nothing else, whatever the bytes. Encoders raise
ValueError for what does not fit a frame.

Frame: u8 major | u8 minor | u16 body length | u32 request id | items. Item: u8 tag | u16 length | data. Big-endian.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct

from hsm.wire.errors import MalformedMessage, VersionMismatch
from hsm.wire.layout import (
    EXTENSION_OPCODES,
    EXTENSION_TAGS,
    HEADER_BYTES,
    ITEM_LENGTHS,
    MAJOR,
    MAX_BODY_BYTES,
    MAX_U32,
    MINOR,
    SKI_BYTES,
    TAG_DEADLINE,
    TAG_OPCODE,
    TAG_PAYLOAD,
    TAG_SKI,
)

_HEADER = Struct(">BBHI")
_ITEM = Struct(">BH")
_U32 = Struct(">I")
_U64 = Struct(">Q")

# A signing request up to its payload: header, opcode item, SKI item, deadline item, head of the payload item.
_SIGN_HEAD = Struct(">BBHI BHB BH20s BHI BH")
SIGN_HEAD_BODY_BYTES = _SIGN_HEAD.size - HEADER_BYTES
# Any message of an opcode and a payload: header, opcode item, head of the payload item.
_PAYLOAD_HEAD = Struct(">BBHI BHB BH")
PAYLOAD_HEAD_BODY_BYTES = _PAYLOAD_HEAD.size - HEADER_BYTES


def encode_item(tag: int, data: bytes) -> bytes:
    """One item. ValueError if the data is longer than 65,535 bytes."""
    if len(data) > MAX_BODY_BYTES:
        raise ValueError(f"an item carries at most {MAX_BODY_BYTES} bytes, not {len(data)}")
    return _ITEM.pack(tag, len(data)) + data


def encode_frame(request_id: int, items: Iterable[tuple[int, bytes]]) -> bytes:
    """One frame with the items in the given order. ValueError if the body is longer than 65,535 bytes."""
    body = b"".join([encode_item(tag, data) for tag, data in items])
    check_body(len(body))
    return _HEADER.pack(MAJOR, MINOR, len(body), request_id) + body


def encode_with_payload(request_id: int, opcode: int, payload: bytes, extra_items: bytes = b"") -> bytes:
    """A frame of an opcode, a payload and items that are encoded already."""
    length = PAYLOAD_HEAD_BODY_BYTES + len(payload) + len(extra_items)
    check_body(length)
    head = _PAYLOAD_HEAD.pack(MAJOR, MINOR, length, request_id, TAG_OPCODE, 1, opcode, TAG_PAYLOAD, len(payload))
    return head + payload + extra_items


def encode_sign(
    request_id: int, opcode: int, ski: bytes, deadline_ms: int, payload: bytes, extra_items: bytes
) -> bytes:
    """A signing request; the hot path of a proxy, so the fixed part is packed in one go."""
    length = SIGN_HEAD_BODY_BYTES + len(payload) + len(extra_items)
    check_body(length)
    head = _SIGN_HEAD.pack(
        MAJOR,
        MINOR,
        length,
        request_id,
        TAG_OPCODE,
        1,
        opcode,
        TAG_SKI,
        SKI_BYTES,
        ski,
        TAG_DEADLINE,
        4,
        deadline_ms,
        TAG_PAYLOAD,
        len(payload),
    )
    return head + payload + extra_items


def check_body(length: int) -> None:
    """ValueError if a body of `length` bytes does not fit the 16-bit length of a frame."""
    if length > MAX_BODY_BYTES:
        raise ValueError(f"a message carries at most {MAX_BODY_BYTES} bytes of items, not {length}")


def encode_u32(value: int) -> bytes:
    """Four bytes; values outside of the range become the nearest that fits."""
    return _U32.pack(min(max(value, 0), MAX_U32))


def decode_u32(data: bytes) -> int:
    """Four bytes, whose count `read_items` has checked."""
    return int.from_bytes(data, "big")


def encode_u64(value: int) -> bytes:
    """Eight bytes. struct.error if negative or too large."""
    return _U64.pack(value)


def milliseconds(seconds: float) -> int:
    """Whole milliseconds as a u32: rounded down, 0 for spans that are over, the largest for endless ones."""
    return int(min(max(seconds * 1000.0, 0.0), float(MAX_U32)))


def read_items(body: bytes) -> dict[int, bytes]:
    """The items of a body by tag, unknown ones too; an opcode is certain to be there.

    Raises MalformedMessage: an item runs over the end, a tag occurs twice, a known item has a wrong length, or the
    opcode is missing.
    """
    items: dict[int, bytes] = {}
    lengths = ITEM_LENGTHS
    position, end = 0, len(body)
    while position < end:
        start = position + 3
        if start > end:
            raise MalformedMessage("bytes after the last item")
        tag = body[position]
        length = (body[position + 1] << 8) | body[position + 2]
        position = start + length
        if position > end:
            raise MalformedMessage(f"item 0x{tag:02x} is longer than the message")
        if tag in items:
            raise MalformedMessage(f"item 0x{tag:02x} occurs twice")
        if tag in lengths and length not in lengths[tag]:
            raise MalformedMessage(f"item 0x{tag:02x} is {length} bytes long")
        items[tag] = body[start:position]
    if TAG_OPCODE not in items:
        raise MalformedMessage("the opcode is missing")
    return items


def shows_extensions(items: dict[int, bytes]) -> bool:
    """Whether only a peer that speaks Sealgate's extensions can have sent these items."""
    return items[TAG_OPCODE][0] in EXTENSION_OPCODES or not EXTENSION_TAGS.isdisjoint(items)


class FrameReader:
    """Cuts a byte stream into frames; holds at most one incomplete frame (65,543 bytes).

    A frame that comes in many pieces is collected in a bytearray and looked at again only when it can be complete, so
    the cost is linear in the bytes received however they are cut.
    """

    __slots__ = ("_needed", "_partial")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._needed = HEADER_BYTES

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield (request id, body) of every frame that `data` completes; run it to its end.

        Raises VersionMismatch at the header of a frame of another major version, after the frames before it.
        """
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._needed:
                return
            chunk = bytes(partial)
            partial.clear()
        else:
            chunk = bytes(data)
        position, end = 0, len(chunk)
        self._needed = HEADER_BYTES
        while end - position >= HEADER_BYTES:
            # The minor version is not looked at: it may only add tags and opcodes, which are skipped or refused.
            major, _minor, length, request_id = _HEADER.unpack_from(chunk, position)
            if major != MAJOR:
                raise VersionMismatch(major, request_id)
            start = position + HEADER_BYTES
            if start + length > end:
                self._needed = HEADER_BYTES + length
                break
            position = start + length
            yield request_id, chunk[start:position]
        if position < end:
            partial += chunk[position:]
