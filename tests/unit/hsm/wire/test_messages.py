"""Events are values."""

from __future__ import annotations

from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Failed, KeyEntry, Signed
from hsm.wire.schemes import KeyType


def test_events_are_frozen_values_that_match_by_position() -> None:
    assert Signed(1, b"s") == Signed(request_id=1, signature=b"s")
    assert Signed(1, b"s") != Signed(2, b"s")
    match Failed(3, ErrorCode.BUSY, "full", 0.5, 7):
        case Failed(request_id, code, detail, retry_after_s, queue_depth):
            assert (request_id, code, detail, retry_after_s, queue_depth) == (3, ErrorCode.BUSY, "full", 0.5, 7)
    assert Failed(3, ErrorCode.INTERNAL) == Failed(3, ErrorCode.INTERNAL, "", None, None)
    assert hash(KeyEntry(bytes(20), KeyType.P256, "web")) == hash(KeyEntry(bytes(20), KeyType.P256, "web"))
