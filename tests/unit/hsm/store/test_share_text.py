from __future__ import annotations

import base64
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm.store import share_text
from hsm.store.share_text import ShareFault, Wrong, decode, encode
from hsm.store.shares import MAX_SHARES, Share, deal

ALPHABET = string.ascii_uppercase + "234567"
SHARES = st.builds(
    Share,
    st.binary(min_size=4, max_size=4),
    st.integers(2, MAX_SHARES),
    st.integers(1, MAX_SHARES),
    st.binary(min_size=32, max_size=32),
)
KNOWN = Share(b"\x7f\x3a\x91\xc2", 3, 2, bytes(range(32)))
KNOWN_TEXT = """\
AF7TO VEOCH AMBA6 AAICL AMCAA KBQH5
BAEQN UCYMN BUHAM 6EAR6 CIJRV IFIWA
C4MBJ SGQ3P DQORB 4H4NE YBM5M OHRHR"""


def words(share: Share) -> list[str]:
    return encode(share).split()


def wrong(text: str) -> Wrong:
    answer = decode(text)
    assert isinstance(answer, Wrong), answer
    return answer


@given(SHARES)
def test_what_is_written_is_read_again(share: Share) -> None:
    assert decode(encode(share)) == share
    assert decode(encode(share).lower().replace(" ", "-")) == share
    assert decode("".join(words(share))) == share


@settings(max_examples=200)
@given(SHARES, st.integers(0, 89), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_found_and_its_group_is_named(share: Share, at: int, character: str) -> None:
    text = "".join(words(share))
    mistyped = text[:at] + character + text[at + 1 :]
    if mistyped == text:
        return
    answer = wrong(mistyped)
    assert answer.fault is ShareFault.MISTYPED
    group = at // 5 + 1
    assert answer.sentence.startswith(f"group {group} (line {(group - 1) // 6 + 1}, word {(group - 1) % 6 + 1}) is")


@settings(max_examples=200)
@given(SHARES, st.integers(0, 17), st.integers(0, 3))
def test_two_swapped_neighbours_are_found_in_their_group(share: Share, group: int, at: int) -> None:
    text = words(share)
    letters = list(text[group])
    letters[at], letters[at + 1] = letters[at + 1], letters[at]
    if "".join(letters) == text[group]:
        return
    text[group] = "".join(letters)
    assert wrong(" ".join(text)).sentence.startswith(f"group {group + 1} ")


@given(SHARES, st.integers(0, 17), st.integers(0, 17))
def test_two_swapped_groups_are_both_named(share: Share, one: int, two: int) -> None:
    if one == two:
        return
    text = words(share)
    text[one], text[two] = text[two], text[one]
    sentence = wrong(" ".join(text)).sentence
    first, second = sorted((one + 1, two + 1))
    assert sentence.startswith(f"groups {first} (")
    assert f" and {second} (" in sentence


@settings(max_examples=300)
@given(SHARES, st.integers(0, 17), st.text(alphabet=ALPHABET, min_size=5, max_size=5))
def test_no_group_that_was_typed_all_wrong_is_accepted(share: Share, at: int, other: str) -> None:
    text = words(share)
    if text[at] == other:
        return
    text[at] = other
    assert wrong("\n".join(text)).fault is ShareFault.MISTYPED


@settings(max_examples=300)
@given(st.text(max_size=200) | st.text(alphabet=ALPHABET + " \n-", max_size=200))
def test_nothing_typed_at_random_is_a_share_or_a_crash(text: str) -> None:
    assert wrong(text).sentence.endswith("look at the share and type it again")


@pytest.mark.parametrize(
    ("change", "words_"),
    [
        (lambda text: text[:-1], "there are 17 groups, and a share has 18"),
        (lambda text: [*text, "AAAAA"], "there are 19 groups, and a share has 18"),
        (lambda text: [*text[:4], text[4][:4], *text[5:]], "group 5 (line 1, word 5) is mistyped"),
        (lambda text: [*text[:4], "!!!!!", *text[5:9], "?", *text[10:]], "groups 5 (line 1, word 5) and 10 (line 2,"),
        (lambda text: [*text[:4], text[4][:4], *text[5:17]], "group 5 has 4 characters instead of 5"),
        (lambda text: ["".join(text)[:-2]], "there are 88 characters, and a share has 90"),
        (lambda text: ["99999"] * 18, "18 groups, the first of them 1 (line 1, word 1), are mistyped"),
        (lambda text: [], "there are 0 characters"),
        (lambda text: ["A"] * 5000, "far too long"),
    ],
)
def test_each_slip_gets_a_sentence_of_its_own(change: object, words_: str) -> None:
    assert words_ in wrong(" ".join(change(words(KNOWN)))).sentence  # type: ignore[operator]


def test_look_alikes_are_read_as_what_was_meant() -> None:
    text = encode(KNOWN)
    assert {"O", "I", "B"} <= set(text)
    assert decode(text.replace("O", "0").replace("I", "1").replace("B", "8")) == KNOWN


def test_lines_for_people_are_passed_over() -> None:
    lines = encode(KNOWN).splitlines()
    assert decode("\n".join(["# keep it secret", *lines[:1], "  # 2 of 5", *lines[1:], ""])) == KNOWN


def test_the_form_of_a_share_does_not_change() -> None:
    """Shares lie in safes for years: this one must be readable for ever."""
    assert encode(KNOWN) == KNOWN_TEXT
    assert decode(KNOWN_TEXT) == KNOWN


def test_four_characters_of_each_group_are_plain_base32() -> None:
    payload = base64.b32decode("".join(word[:4] for word in words(KNOWN)))
    assert payload[:7] == b"\x01\x7f\x3a\x91\xc2\x03\x02"
    assert payload[7:39] == bytes(range(32))


def test_versions_and_numbers_that_are_not_ours_are_told_apart() -> None:
    def text(data: bytes) -> str:
        data += share_text._digest(data)
        number = int.from_bytes(data)
        return " ".join(share_text._group(number >> 20 * (18 - at) & 0xFFFFF, at) for at in range(1, 19))

    assert wrong(text(b"\x02seti\x02\x01" + bytes(32))).fault is ShareFault.TOO_NEW
    for numbers in (b"\x01\x01", b"\x02\x00", b"\x21\x01", b"\x02\x21"):
        assert wrong(text(b"\x01seti" + numbers + bytes(32))).fault is ShareFault.NOT_MADE


def test_what_was_typed_is_never_repeated() -> None:
    share = deal(2, 2).shares[0]
    text = words(share)
    text[7] = text[7][:4] + ("A" if text[7][4] != "A" else "B")
    sentence = wrong(" ".join(text)).sentence
    assert not any(word in sentence for word in words(share))
    assert text[7] not in sentence
