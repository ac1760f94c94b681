from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm.store import shares
from hsm.store.shares import MAX_SHARES, Share, ShareSet, combine, deal, size_problem, split

SECRET = bytes(range(100, 132))
SIZES = st.tuples(st.integers(2, MAX_SHARES), st.integers(2, MAX_SHARES)).map(lambda pair: (min(pair), max(pair)))


def slow_product(left: int, right: int) -> int:
    """Polynomial multiplication, then division by x^8+x^4+x^3+x+1: the definition, another way."""
    product = 0
    for bit in range(8):
        product ^= (left << bit) if right >> bit & 1 else 0
    for bit in range(14, 7, -1):
        product ^= 0x11B << (bit - 8) if product >> bit & 1 else 0
    return product


def test_the_field_is_that_of_fips_197() -> None:
    assert shares._times(0x57, 0x83) == 0xC1  # its example in 4.2
    assert shares._times(0x57, 0x13) == 0xFE  # and in 4.2.1
    for left, right in itertools.product(range(0, 256, 3), range(256)):
        assert shares._times(left, right) == slow_product(left, right)
    assert all(shares._times(number, shares._inverse(number)) == 1 for number in range(1, 256))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255))
def test_lanes_do_not_touch_each_other(lanes: bytes, factor: int) -> None:
    product = shares._times(int.from_bytes(lanes), factor).to_bytes(32)
    assert list(product) == [slow_product(lane, factor) for lane in lanes]


@settings(max_examples=60, deadline=None)
@given(SIZES, st.binary(min_size=32, max_size=32), st.randoms(use_true_random=False))
def test_any_m_of_n_restore_the_secret_and_fewer_do_not(size: tuple[int, int], secret: bytes, random: object) -> None:
    threshold, count = size
    made = split(secret, threshold, count, b"seti")
    some = random.sample(made, threshold)  # type: ignore[attr-defined]
    assert combine(some) == secret
    with pytest.raises(ValueError, match="too few"):
        combine(some[:-1])
    # Nor does who lies about how many are needed get it from fewer (by luck once in 2**256).
    lies = [dataclasses.replace(share, threshold=len(some) - 1) for share in some[:-1]]
    assert combine(lies) != secret


def test_every_three_of_five_restore_it() -> None:
    made = split(SECRET, 3, 5, b"seti")
    for some in itertools.permutations(made, 3):
        assert combine(some) == SECRET
    assert combine(made) == SECRET


def test_fewer_shares_fit_every_secret_alike() -> None:
    """Two shares of three: for each possible byte of the secret there is exactly one third share that gives it."""
    one, two, three = split(SECRET, 3, 3, b"seti")
    first = Counter(
        combine([one, two, dataclasses.replace(three, body=bytes((byte,)) + three.body[1:])])[0] for byte in range(256)
    )
    assert first == Counter(range(256))


def test_a_known_polynomial_gives_the_known_shares() -> None:
    """f(x) = 0x2a + 0x01 x in each byte, so share i is 0x2a ^ i."""
    made = split(b"\x2a" * 32, 2, 3, b"seti", lambda size: b"\x01" * size)
    assert [share.body for share in made] == [b"\x2b" * 32, b"\x28" * 32, b"\x29" * 32]


@pytest.mark.parametrize(("threshold", "count"), [(1, 5), (0, 0), (6, 5), (2, 33), (33, 33), (-1, 2)])
def test_sizes_that_make_no_sense_are_refused(threshold: int, count: int) -> None:
    assert f"{threshold} of {count} shares can't be" in (size_problem(threshold, count) or "")
    with pytest.raises(ValueError, match="can't be"):
        deal(threshold, count)


def test_misuse_is_refused() -> None:
    one, two = split(SECRET, 2, 2, b"seti")
    with pytest.raises(ValueError, match="twice"):
        combine([one, one])
    with pytest.raises(ValueError, match="too few"):
        combine([])
    with pytest.raises(ValueError, match="32 bytes"):
        split(b"short", 2, 2, b"seti")
    assert combine([two, one]) == SECRET


def test_a_deal_knows_its_own_shares_and_no_altered_ones() -> None:
    made = deal(2, 3)
    assert combine(made.shares[1:]) == made.secret.reveal()
    assert made.share_set.is_sane()
    assert (made.share_set.count, made.share_set.name) == (3, made.share_set.set_id.hex())
    for share in made.shares:
        assert made.share_set.made(share)
        flipped = bytes((share.body[0] ^ 1,)) + share.body[1:]
        for changed in (
            dataclasses.replace(share, body=flipped),
            dataclasses.replace(share, index=share.index % 3 + 1),
            dataclasses.replace(share, index=0),
            dataclasses.replace(share, index=4),
            dataclasses.replace(share, threshold=3),
            dataclasses.replace(share, set_id=b"else"),
        ):
            assert not made.share_set.made(changed)
    assert deal(2, 3).share_set != made.share_set


@pytest.mark.parametrize(
    ("threshold", "set_id", "commitments"),
    [
        (2, b"", (b"c" * 32,) * 2),
        (2, b"seti", (b"c" * 31,) * 2),
        (2, b"seti", (b"c" * 32, b"")),
        (1, b"seti", (b"c" * 32,) * 2),
        (3, b"seti", (b"c" * 32,) * 2),
        (2, b"seti", ()),
        (2, b"seti", (b"c" * 32,) * 33),
    ],
)
def test_sets_that_nobody_made_are_not_sane(threshold: int, set_id: bytes, commitments: tuple[bytes, ...]) -> None:
    assert not ShareSet(set_id, threshold, commitments).is_sane()


def test_what_is_printed_of_a_deal_holds_no_secret() -> None:
    made = deal(2, 2)
    for shown in (repr(made), str(made), repr(made.shares[0])):
        assert repr(made.shares[0].body) not in shown
        assert repr(bytes(made.secret.reveal())) not in shown
    assert "body" not in repr(Share(b"seti", 2, 1, b"b" * 32))
