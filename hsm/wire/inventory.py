"""Lists of keys as pages, because a frame carries 65,535 bytes and a node thousands of keys.

A page is a row of entries: 20 bytes SKI | u8 type | u8 label length | label in UTF-8. An inventory is sent as several
answers to one request, each with a page and the same revision; all but the last carry a `more` item.
"""

from __future__ import annotations

from collections.abc import Iterable

from hsm.wire.errors import MalformedMessage
from hsm.wire.fields import decode_text, encode_text
from hsm.wire.layout import (
    MAX_KEYS,
    MAX_LABEL_BYTES,
    MAX_PAGE_BYTES,
    SKI_BYTES,
    TAG_KEYS,
    TAG_MORE,
    TAG_REVISION,
)
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType

TYPE_CODES: dict[KeyType, int] = {
    KeyType.RSA_2048: 1,
    KeyType.RSA_3072: 2,
    KeyType.RSA_4096: 3,
    KeyType.RSA_OTHER: 4,
    KeyType.P256: 5,
    KeyType.P384: 6,
    KeyType.P521: 7,
    KeyType.ED25519: 8,
}
_TYPES = {code: key_type for key_type, code in TYPE_CODES.items()}
_ENTRY_HEAD_BYTES = SKI_BYTES + 2


def encode_pages(keys: Iterable[KeyEntry]) -> list[bytes]:
    """The pages of an inventory; at least one, which is empty when there are no keys."""
    pages: list[bytes] = []
    page = bytearray()
    for key in keys:
        entry = _encode_entry(key)
        if len(page) + len(entry) > MAX_PAGE_BYTES:
            pages.append(bytes(page))
            page.clear()
        page += entry
    pages.append(bytes(page))
    return pages


def _encode_entry(key: KeyEntry) -> bytes:
    if len(key.ski) != SKI_BYTES:
        raise ValueError(f"a SKI is {SKI_BYTES} bytes, not {len(key.ski)}")
    label = encode_text(key.label, MAX_LABEL_BYTES)
    return key.ski + bytes((TYPE_CODES[key.type], len(label))) + label


def decode_page(page: bytes) -> list[KeyEntry]:
    """The entries of a page. Keys of types that this version does not know are left out.

    Raises MalformedMessage if the page ends inside an entry.
    """
    entries: list[KeyEntry] = []
    position, end = 0, len(page)
    while position < end:
        head_end = position + _ENTRY_HEAD_BYTES
        if head_end > end:
            raise MalformedMessage("a key page ends inside an entry")
        type_code, label_bytes = page[head_end - 2], page[head_end - 1]
        if head_end + label_bytes > end:
            raise MalformedMessage("a key page ends inside a label")
        key_type = _TYPES.get(type_code)
        if key_type is not None:
            label = decode_text(page[head_end : head_end + label_bytes], MAX_LABEL_BYTES)
            entries.append(KeyEntry(page[position : position + SKI_BYTES], key_type, label))
        position = head_end + label_bytes
    return entries


class InventoryParts:
    """Collects the answers to one request for keys."""

    __slots__ = ("keys", "revision")

    def __init__(self) -> None:
        self.keys: list[KeyEntry] = []
        self.revision: int | None = None

    def add(self, items: dict[int, bytes]) -> bool:
        """Take one answer and tell whether it was the last.

        Raises MalformedMessage: no page or revision, another revision than before, or too many keys.
        """
        if TAG_KEYS not in items or TAG_REVISION not in items:
            raise MalformedMessage("a list of keys without keys or revision")
        revision = int.from_bytes(items[TAG_REVISION], "big")
        if self.revision not in (None, revision):
            raise MalformedMessage("a list of keys that changes its revision half-way")
        self.revision = revision
        self.keys += decode_page(items[TAG_KEYS])
        if len(self.keys) > MAX_KEYS:
            raise MalformedMessage(f"a list of more than {MAX_KEYS} keys")
        return not has_more(items)


def has_more(items: dict[int, bytes]) -> bool:
    """Whether other answers to the same request follow."""
    return items.get(TAG_MORE, b"\0") != b"\0"
