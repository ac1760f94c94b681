"""Answers: how a node writes its errors, and what a node's answer means to a client.

Sessions decide when; this module only turns values into frames and items into events.
"""

from __future__ import annotations

from hsm.wire import codec, fields
from hsm.wire.errors import ErrorCode
from hsm.wire.inflight import RequestKind
from hsm.wire.layout import OP_ERROR, OP_PONG, OP_RESPONSE, TAG_DETAIL, TAG_PAYLOAD, TAG_QUEUE_DEPTH, TAG_RETRY_AFTER
from hsm.wire.messages import Failed, Ponged, Signed

PLAIN_CODES = {
    ErrorCode.BUSY: ErrorCode.INTERNAL,
    ErrorCode.DEADLINE: ErrorCode.INTERNAL,
    ErrorCode.DENIED: ErrorCode.KEY_NOT_FOUND,
    ErrorCode.DRAINING: ErrorCode.INTERNAL,
    ErrorCode.CANCELLED: ErrorCode.INTERNAL,
}
"""What clients without extensions are told instead."""


def encode_plain_error(request_id: int, code: ErrorCode) -> bytes:
    """An error as Keyless SSL v1 has it: a code of v1 and nothing else."""
    return codec.encode_with_payload(request_id, OP_ERROR, bytes((PLAIN_CODES.get(code, code),)))


def encode_error(
    request_id: int, code: ErrorCode, detail: str, retry_after_s: float | None, queue_depth: int | None
) -> bytes:
    """An error with all that is known, for clients that speak the extensions."""
    extra: list[bytes] = []
    if detail:
        extra.append(codec.encode_item(TAG_DETAIL, fields.encode_text(detail)))
    if retry_after_s is not None:
        extra.append(codec.encode_item(TAG_RETRY_AFTER, codec.encode_u32(codec.milliseconds(retry_after_s))))
    if queue_depth is not None:
        extra.append(codec.encode_item(TAG_QUEUE_DEPTH, codec.encode_u32(queue_depth)))
    return codec.encode_with_payload(request_id, OP_ERROR, bytes((code,)), b"".join(extra))


def read_answer(request_id: int, kind: RequestKind, opcode: int, items: dict[int, bytes]) -> Signed | Ponged | Failed:
    """The event of an answer to a request of `kind`; what fits no such request is Failed(INTERNAL).

    INTERNAL, not MALFORMED or UNEXPECTED_OPCODE: the request was sound, so another node may well answer it.
    """
    payload = items.get(TAG_PAYLOAD, b"")
    if opcode == OP_RESPONSE and kind is RequestKind.SIGN and payload:
        return Signed(request_id, payload)
    if opcode == OP_PONG and kind is RequestKind.PING:
        return Ponged(request_id, payload)
    if opcode == OP_ERROR and len(payload) == 1:
        return _read_error(request_id, payload[0], items)
    return Failed(request_id, ErrorCode.INTERNAL, f"the node's answer (opcode 0x{opcode:02x}) fits no request")


def _read_error(request_id: int, number: int, items: dict[int, bytes]) -> Failed:
    detail = fields.decode_text(items.get(TAG_DETAIL, b""))
    try:
        code = ErrorCode(number)
    except ValueError:
        code, detail = ErrorCode.INTERNAL, f"error code {number}, which this version does not know; {detail}"
    retry_after = items.get(TAG_RETRY_AFTER)
    depth = items.get(TAG_QUEUE_DEPTH)
    return Failed(
        request_id,
        code,
        detail,
        None if retry_after is None else codec.decode_u32(retry_after) / 1000.0,
        None if depth is None else codec.decode_u32(depth),
    )
