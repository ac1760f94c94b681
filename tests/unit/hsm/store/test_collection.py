from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hsm.store.collection import Collection, Taken
from hsm.store.share_text import ShareFault, Wrong, encode
from hsm.store.shares import Deal, Share, deal

MADE = deal(3, 5)
NAME = MADE.share_set.name


def forged(share: Share) -> Share:
    return dataclasses.replace(share, body=bytes((share.body[0] ^ 1,)) + share.body[1:])


def test_shares_add_up_to_the_secret() -> None:
    collection = Collection(MADE.share_set)
    assert collection.take(MADE.shares[4], 0) == Taken(5, NAME, 2)
    taken = collection.take_text(encode(MADE.shares[1]), 1)
    assert isinstance(taken, Taken)
    assert taken.sentence == f"share 2 of set {NAME} accepted, 1 more needed"
    with pytest.raises(ValueError, match="too few"):
        Collection(MADE.share_set).secret()
    last = collection.take(MADE.shares[0], 2)
    assert isinstance(last, Taken)
    assert last.sentence == f"share 1 of set {NAME} accepted, that is enough"
    assert (collection.indices, collection.missing) == ((1, 2, 5), 0)
    assert collection.secret().reveal() == MADE.secret.reveal()
    assert collection.indices == ()


@pytest.mark.parametrize("number", range(5))
def test_every_altered_share_is_named(number: int) -> None:
    collection = Collection(MADE.share_set)
    answer = collection.take_text(encode(forged(MADE.shares[number])), 0)
    assert isinstance(answer, Wrong)
    assert answer.fault is ShareFault.NOT_MADE
    assert answer.sentence.startswith(f"share {number + 1} is not the one that was made for this vault")
    assert collection.missing == 3


def test_a_share_of_another_vault_is_named_with_its_set() -> None:
    other = deal(3, 5)
    answer = Collection(MADE.share_set).take(other.shares[1], 0)
    assert isinstance(answer, Wrong)
    assert answer.fault is ShareFault.OTHER_SET
    assert answer.sentence.startswith(f"share 2 of set {other.share_set.name} belongs to another vault")
    assert NAME in answer.sentence


def test_a_share_counts_once() -> None:
    collection = Collection(MADE.share_set)
    collection.take(MADE.shares[1], 0)
    answer = collection.take(MADE.shares[1], 1)
    assert answer == Wrong(ShareFault.GIVEN_ALREADY, "share 2 was given already; 2 more of the others needed")
    mistyped = collection.take_text("AAAAA", 1)
    assert isinstance(mistyped, Wrong)
    assert collection.indices == (2,)


def test_shares_are_forgotten_when_nobody_goes_on() -> None:
    collection = Collection(MADE.share_set, timeout_s=10)
    assert collection.seconds_left(0) is None
    collection.take(MADE.shares[0], 0)
    collection.take(MADE.shares[1], 9)  # another share buys time
    assert collection.seconds_left(12) == 7
    assert not collection.expire(18.9)
    assert collection.expire(19)
    assert (collection.indices, collection.missing, collection.expire(20)) == ((), 3, False)
    collection.take(MADE.shares[0], 30)
    assert collection.take(MADE.shares[1], 40) == Taken(2, NAME, 2)  # the first one is gone


class Ceremony(RuleBasedStateMachine):
    """Whatever people do in whatever order: good shares count once, wrong ones change nothing, time takes all."""

    made: Deal

    @initialize(size=st.sampled_from([(2, 2), (2, 4), (3, 5)]))
    def begin(self, size: tuple[int, int]) -> None:
        self.made, self.now, self.last = deal(*size), 0.0, 0.0
        self.collection = Collection(self.made.share_set, timeout_s=100)
        self.here: set[int] = set()

    @rule(seconds=st.floats(0, 120))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.here and self.now >= self.last + 100:
            self.here.clear()
        self.collection.expire(self.now)

    @rule(number=st.integers(0, 31), is_forged=st.booleans())
    def give(self, number: int, is_forged: bool) -> None:
        share = self.made.shares[number % len(self.made.shares)]
        answer = self.collection.take(forged(share) if is_forged else share, self.now)
        is_new = share.index not in self.here
        assert isinstance(answer, Taken) == (is_new and not is_forged)
        if isinstance(answer, Taken):
            self.here.add(share.index)
            self.last = self.now

    @rule()
    def open(self) -> None:
        if self.collection.missing == 0:
            assert self.collection.secret().reveal() == self.made.secret.reveal()
            self.here.clear()

    @invariant()
    def holds_what_was_given(self) -> None:
        if hasattr(self, "collection"):
            assert set(self.collection.indices) == self.here
            assert self.collection.missing == max(0, self.made.share_set.threshold - len(self.here))


TestCeremony = Ceremony.TestCase
TestCeremony.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
