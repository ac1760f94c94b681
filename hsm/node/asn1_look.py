"""Says whether bytes have the outline of what is signed of a certificate. Pure; it reads no more than the outline.

Whoever verifies certificates, revocation lists, OCSP answers or CMS signatures looks at the signature of a SEQUENCE, or
of a SET in CMS. Lenient, as verifiers are: lengths may be longer than they need to be, or not be said at all (BER,
X.690 8.1.3), so that nothing is let through that some of them accept.
"""

from __future__ import annotations

SEQUENCE, SET = 0x30, 0x31
_INDEFINITE = 0x80
_END = b"\0\0"
_MAX_DEPTH = 16
_CONSTRUCTED = 0x20
_CONTEXT_SPECIFIC = range(0x80, 0xC0)
_TIMES_AND_NUMBERS = (0x02, 0x0A, 0x17, 0x18)
_LEAST_PARTS, _LEAST_CONSTRUCTED = 3, 2
"""A revocation list has an algorithm, an issuer and a time at least; an OCSP answer who says it, when, and what."""


def is_signed_structure(data: bytes) -> bool:
    """Whether `data`, from its first byte to its last, has the outline of what those sign. Never raises.

    Of random bytes, one in some thousand million has.
    """
    if data[:1] not in (b"\x30", b"\x31"):
        return False
    opened = _content(data, 0)
    if opened is None:
        return False
    at, end = opened
    if end is None and data[-2:] == _END:
        end = len(data) - 2
    elif end != len(data):
        return False
    tags = _tags(data, at, end)
    if data[0] == SET:
        return bool(tags) and set(tags) == {SEQUENCE}  # attributes
    constructed = sum(tag & _CONSTRUCTED != 0 for tag in tags)
    return len(tags) >= _LEAST_PARTS and constructed >= _LEAST_CONSTRUCTED and all(map(_is_possible, tags))


def _is_possible(tag: int) -> bool:
    """Whether an element of such a SEQUENCE may begin so."""
    return tag == SEQUENCE or tag in _TIMES_AND_NUMBERS or tag in _CONTEXT_SPECIFIC


def _tags(data: bytes, at: int, end: int) -> list[int]:
    """The first bytes of the elements that follow each other from `at` to exactly `end`; none where they don't."""
    tags: list[int] = []
    while at < end:
        after = _after(data, at, 0)
        if after is None:
            return []
        tags.append(data[at])
        at = after
    return tags if at == end else []


def _after(data: bytes, at: int, depth: int) -> int | None:
    """Where the element at `at` ends; None where it is none."""
    opened = _content(data, at)
    if opened is None or depth > _MAX_DEPTH:
        return None
    inner, end = opened
    if end is not None:
        return end if end <= len(data) else None
    while data[inner : inner + 2] != _END:
        after = _after(data, inner, depth + 1)
        if after is None:
            return None
        inner = after
    return inner + 2


def _content(data: bytes, at: int) -> tuple[int, int | None] | None:
    """Where the content of the element at `at` begins and ends: None for an end that is not said."""
    at += 1
    if data[at - 1 : at] and data[at - 1] & 0x1F == 0x1F:
        while data[at : at + 1] >= b"\x80":  # a tag of several bytes
            at += 1
        at += 1
    if at >= len(data):
        return None
    first, at = data[at], at + 1
    if first < _INDEFINITE:
        return at, at + first
    if first == _INDEFINITE:
        return at, None
    count = first & 0x7F
    if at + count > len(data):
        return None
    return at + count, at + count + int.from_bytes(data[at : at + count])
