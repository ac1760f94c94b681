"""Pages of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.errors import MalformedMessage
from hsm.wire.inventory import TYPE_CODES, InventoryParts, decode_page, encode_pages
from hsm.wire.layout import MAX_KEYS, MAX_PAGE_BYTES, TAG_KEYS, TAG_MORE, TAG_REVISION
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType

LABELS = st.text(st.characters(categories=("L", "N", "P")), max_size=60)
ENTRIES = st.builds(KeyEntry, st.binary(min_size=20, max_size=20), st.sampled_from(KeyType), LABELS)
SEVEN = (7).to_bytes(8, "big")


def test_every_key_type_has_its_own_code() -> None:
    assert set(TYPE_CODES) == set(KeyType)
    assert len(set(TYPE_CODES.values())) == len(KeyType)


@given(st.lists(ENTRIES, max_size=50))
def test_entries_survive(entries: list[KeyEntry]) -> None:
    assert [entry for page in encode_pages(entries) for entry in decode_page(page)] == entries


@given(st.binary(max_size=300))
def test_any_page_is_read_or_malformed(page: bytes) -> None:
    try:
        entries = decode_page(page)
    except MalformedMessage:
        return
    assert all(len(entry.ski) == 20 and entry.label.isprintable() for entry in entries)


def test_thousands_of_keys_take_several_pages_of_bounded_size() -> None:
    entries = [KeyEntry(number.to_bytes(20, "big"), KeyType.P256, f"site {number}") for number in range(10_000)]
    pages = encode_pages(entries)
    assert len(pages) > 5
    assert all(len(page) <= MAX_PAGE_BYTES for page in pages)
    assert [entry for page in pages for entry in decode_page(page)] == entries


def test_no_keys_are_one_empty_page() -> None:
    assert encode_pages(()) == [b""]
    assert decode_page(b"") == []


def test_a_long_label_is_cut_between_characters() -> None:
    [page] = encode_pages([KeyEntry(bytes(20), KeyType.ED25519, "ä" * 200)])
    assert decode_page(page)[0].label == "ä" * 127


def test_a_wrong_ski_is_refused() -> None:
    with pytest.raises(ValueError, match="20 bytes, not 19"):
        encode_pages([KeyEntry(bytes(19), KeyType.P256, "")])


@pytest.mark.parametrize(
    ("page", "reason"),
    [(bytes(21), "ends inside an entry"), (bytes(20) + b"\x05\x04web", "ends inside a label")],
)
def test_a_cut_page_is_malformed(page: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        decode_page(page)


def test_parts_add_up() -> None:
    parts = InventoryParts()
    [page] = encode_pages([KeyEntry(bytes(20), KeyType.P384, "web")])
    assert not parts.add({TAG_KEYS: page, TAG_REVISION: SEVEN, TAG_MORE: b"\1"})
    assert parts.add({TAG_KEYS: page, TAG_REVISION: SEVEN})
    assert [entry.label for entry in parts.keys] == ["web", "web"]
    assert parts.revision == 7


def test_parts_of_different_revisions_do_not_mix() -> None:
    parts = InventoryParts()
    parts.add({TAG_KEYS: b"", TAG_REVISION: SEVEN, TAG_MORE: b"\1"})
    with pytest.raises(MalformedMessage, match="changes its revision"):
        parts.add({TAG_KEYS: b"", TAG_REVISION: (8).to_bytes(8, "big")})


@pytest.mark.parametrize("items", [{}, {TAG_KEYS: b""}, {TAG_REVISION: SEVEN}])
def test_a_part_needs_keys_and_revision(items: dict[int, bytes]) -> None:
    with pytest.raises(MalformedMessage, match="without keys or revision"):
        InventoryParts().add(items)


def test_endless_lists_are_bounded() -> None:
    parts = InventoryParts()
    page = (bytes(20) + b"\x05\x00") * 2_900
    part = {TAG_KEYS: page, TAG_REVISION: SEVEN, TAG_MORE: b"\1"}
    for _ in range(MAX_KEYS // 2_900):
        parts.add(part)
    with pytest.raises(MalformedMessage, match=f"more than {MAX_KEYS} keys"):
        parts.add(part)
