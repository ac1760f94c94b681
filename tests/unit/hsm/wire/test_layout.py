"""The numbers do not collide."""

from __future__ import annotations

from hsm.wire import layout
from hsm.wire.schemes import SCHEME_BY_OPCODE


def numbers(prefix: str) -> list[int]:
    return [value for name, value in vars(layout).items() if name.startswith(prefix)]


def test_tags_and_opcodes_are_different() -> None:
    tags, opcodes = numbers("TAG_"), [*numbers("OP_"), *SCHEME_BY_OPCODE]
    assert len(set(tags)) == len(tags)
    assert len(set(opcodes)) == len(opcodes)


def test_extensions_stay_in_their_range() -> None:
    reserved = range(layout.FIRST_EXTENSION, layout.LAST_EXTENSION + 1)
    assert all(tag in reserved for tag in layout.EXTENSION_TAGS)
    assert all(opcode in reserved for opcode in layout.EXTENSION_OPCODES)
    assert not set(SCHEME_BY_OPCODE) & set(reserved)


def test_payload_lengths_are_those_of_the_digests() -> None:
    assert layout.PAYLOAD_BYTES == {
        0x05: 32, 0x06: 48, 0x07: 64,
        0x35: 32, 0x36: 48, 0x37: 64,
        0x15: 32, 0x16: 48, 0x17: 64,
        0x18: None,
    }  # fmt: skip
