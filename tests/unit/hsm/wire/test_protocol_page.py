"""docs/protocol.md says what the code does: its frames are the vectors, its tables name every number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsm.wire import layout
from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import SCHEME_BY_OPCODE
from tests.support.vectors import load_vectors, parse_vectors

PAGE = (Path(__file__).parents[4] / "docs" / "protocol.md").read_text("utf-8")
VECTORS = load_vectors("keyless_v1.hex") | load_vectors("extensions.hex")
EXAMPLES = parse_vectors("\n".join(re.findall(r"```hex\n(.*?)```", PAGE, re.DOTALL)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_vectors(name: str) -> None:
    assert EXAMPLES[name] == VECTORS[name]


@pytest.mark.parametrize("name", VECTORS)
def test_every_vector_is_a_whole_frame(name: str) -> None:
    frame = VECTORS[name]
    assert int.from_bytes(frame[2:4], "big") == len(frame) - 8


def test_every_number_is_on_the_page() -> None:
    opcodes = [value for name, value in vars(layout).items() if name.startswith("OP_")]
    for number in [*opcodes, *SCHEME_BY_OPCODE, *layout.EXTENSION_TAGS]:
        assert f"`0x{number:02X}`" in PAGE, f"0x{number:02X} is missing"
    for code in ErrorCode:
        assert f"| {code.value} |" in PAGE or f"| `0x{code.value:02X}` |" in PAGE, f"{code.name} is missing"


def test_bounds_on_the_page_are_those_of_the_code() -> None:
    assert f"{layout.MAX_KEYS:,}" in PAGE
    assert f"{layout.MAX_PAGE_BYTES:,}" in PAGE
    assert f"| message | {layout.MAX_MESSAGE_BYTES:,} bytes |" in PAGE
    assert f"{layout.HEADER_BYTES + layout.MAX_BODY_BYTES:,}" in PAGE
    assert f"{layout.MAX_DETAIL_BYTES}, {layout.MAX_NAME_BYTES}, {layout.MAX_LABEL_BYTES} bytes" in PAGE
