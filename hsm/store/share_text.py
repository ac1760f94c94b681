"""A share as text that people can type, dictate and print: 18 groups of 5 letters and digits (RFC 4648 base32).

Four characters of a group carry 20 bits; the fifth checks them and the group's number, so that a wrong character, two
swapped neighbours or two swapped groups are found *and named*. A checksum over everything finds what is left (one
group in 32 that is wrong all over). The bytes are: version, set id (4), threshold, index, body (32), the first 6 bytes
of SHA-256 of all that. Upper and lower case, spaces, dashes and line ends do not matter; 0, 1 and 8 are read as O, I
and B, which base32 has instead; lines that begin with # are for people.

Pure. What is wrong is returned as data and never repeats what was typed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hsm.store.shares import MAX_SHARES, MIN_THRESHOLD, SECRET_BYTES, SET_ID_BYTES, Share

GROUPS = 18
GROUP_CHARACTERS = 5
GROUPS_PER_LINE = 6
MAX_TEXT_CHARACTERS = 4096

_VERSION = 1
_DIGEST_BYTES = 6
_BYTES = 1 + SET_ID_BYTES + 2 + SECRET_BYTES + _DIGEST_BYTES
_LABEL = b"sealgate share v1"
_MODULUS = 0b100101
"""x^5 + x^2 + 1: GF(2^5), one character each."""
_WEIGHTS = (2, 4, 8, 16)
"""Different and not zero: a check of these notices any one wrong character and any two that were swapped."""
_READ_AS = str.maketrans("018", "OIB")
_BETWEEN = re.compile(r"[\s\-_.,:]+")


class ShareFault(StrEnum):
    """What is wrong with a share that was given."""

    MISTYPED = "mistyped"
    TOO_NEW = "too_new"
    """Another version of Sealgate made it."""
    OTHER_SET = "other_set"
    """It belongs to another vault, or to shares that were replaced."""
    NOT_MADE = "not_made"
    """It fits the vault by its numbers, but is not the share that was made."""
    GIVEN_ALREADY = "given_already"


@dataclass(frozen=True, slots=True)
class Wrong:
    """A share that was not accepted; the sentence is for people and holds nothing that was typed."""

    fault: ShareFault
    sentence: str


def encode(share: Share) -> str:
    """Three lines of six groups."""
    head = bytes((_VERSION,)) + share.set_id + bytes((share.threshold, share.index)) + share.body
    number = int.from_bytes(head + _digest(head))
    groups = [_group(number >> 20 * (GROUPS - place) & 0xFFFFF, place) for place in range(1, GROUPS + 1)]
    lines = [groups[start : start + GROUPS_PER_LINE] for start in range(0, GROUPS, GROUPS_PER_LINE)]
    return "\n".join(" ".join(line) for line in lines)


def decode(text: str) -> Share | Wrong:
    """The share, or which groups are mistyped."""
    if len(text) > MAX_TEXT_CHARACTERS:
        return _mistyped("this is far too long for a share")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = [word for word in _BETWEEN.split(" ".join(lines).upper()) if word]
    groups = _regrouped(words)
    if isinstance(groups, Wrong):
        return groups
    numbers, bad = 0, []
    for place, group in enumerate(groups, 1):
        value = _value(group.translate(_READ_AS), place)
        numbers = numbers << 20 | (value or 0)
        bad += [place] if value is None else []
    if bad:
        return _mistyped(f"{_named(bad)} mistyped")
    return _share(numbers.to_bytes(_BYTES))


def is_complete(text: str) -> bool:
    """Whether nothing more needs to be typed: for whoever reads a share line by line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return len(_BETWEEN.sub("", "".join(lines))) >= GROUPS * GROUP_CHARACTERS


def _share(data: bytes) -> Share | Wrong:
    head, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if not hmac.compare_digest(_digest(head), digest):
        return _mistyped("each group looks right, but together they are no share: some group is another one's")
    version, set_id, (threshold, index) = head[0], head[1 : 1 + SET_ID_BYTES], head[1 + SET_ID_BYTES :][:2]
    if version != _VERSION:
        sentence = f"this share has format {version}, and this program knows format {_VERSION}; use a matching version"
        return Wrong(ShareFault.TOO_NEW, sentence)
    if not (MIN_THRESHOLD <= threshold <= MAX_SHARES and 1 <= index <= MAX_SHARES):
        return Wrong(ShareFault.NOT_MADE, f"share {index} of set {set_id.hex()} can't have been made by Sealgate")
    return Share(set_id, threshold, index, head[-SECRET_BYTES:])


def _regrouped(words: Sequence[str]) -> Sequence[str] | Wrong:
    """The 18 groups as they were typed, or cut by fives where they were not typed in groups."""
    if len(words) == GROUPS:
        return words  # a group of another length is then named like any other that is wrong
    whole = "".join(words)
    if len(whole) == GROUPS * GROUP_CHARACTERS:
        return [whole[start : start + GROUP_CHARACTERS] for start in range(0, len(whole), GROUP_CHARACTERS)]
    odd = [place for place, word in enumerate(words, 1) if len(word) != GROUP_CHARACTERS]
    if len(words) > 1 and odd:
        return _mistyped(f"group {odd[0]} has {len(words[odd[0] - 1])} characters instead of {GROUP_CHARACTERS}")
    if len(words) > 1:
        return _mistyped(f"there are {len(words)} groups, and a share has {GROUPS}")
    return _mistyped(f"there are {len(whole)} characters, and a share has {GROUPS * GROUP_CHARACTERS}")


def _named(places: Sequence[int]) -> str:
    """ "group 5 (line 1, word 5) is", or "groups 5 (...) and 9 (...) are"."""
    shown = [f"{at} (line {(at - 1) // GROUPS_PER_LINE + 1}, word {(at - 1) % GROUPS_PER_LINE + 1})" for at in places]
    if len(shown) == 1:
        return f"group {shown[0]} is"
    if len(shown) > 4:
        return f"{len(shown)} groups, the first of them {shown[0]}, are"
    return f"groups {', '.join(shown[:-1])} and {shown[-1]} are"


def _mistyped(what: str) -> Wrong:
    return Wrong(ShareFault.MISTYPED, f"{what}; look at the share and type it again")


def _group(value: int, place: int) -> str:
    """Four characters for 20 bits, and one that checks them."""
    symbols = [value >> shift & 31 for shift in (15, 10, 5, 0)]
    return "".join(_character(symbol) for symbol in (*symbols, _check(symbols, place)))


def _value(group: str, place: int) -> int | None:
    """The 20 bits of a group, or None where it is mistyped."""
    symbols = [_symbol(character) for character in group]
    if len(symbols) != GROUP_CHARACTERS or any(symbol < 0 for symbol in symbols):
        return None
    if symbols[-1] != _check(symbols[:-1], place):
        return None
    first, second, third, fourth = symbols[:-1]
    return first << 15 | second << 10 | third << 5 | fourth


def _check(symbols: Sequence[int], place: int) -> int:
    total = place
    for symbol, weight in zip(symbols, _WEIGHTS, strict=True):
        total ^= _times(symbol, weight)
    return total


def _times(symbol: int, weight: int) -> int:
    """A character's value times a public weight in GF(2^5)."""
    product = 0
    for bit in range(5):
        if weight >> bit & 1:
            product ^= symbol
        symbol = symbol << 1 ^ (symbol >> 4) * _MODULUS
    return product


def _character(symbol: int) -> str:
    # "A" to "Z", then "2" to "7"; computed, not looked up.
    return chr(ord("A") + symbol - (ord("A") + 26 - ord("2")) * (symbol > 25))


def _symbol(character: str) -> int:
    if "A" <= character <= "Z":
        return ord(character) - ord("A")
    return ord(character) - ord("2") + 26 if "2" <= character <= "7" else -1


def _digest(head: bytes) -> bytes:
    return hashlib.sha256(_LABEL + head).digest()[:_DIGEST_BYTES]
