"""A link that looks open: when it is dead, and when its node is only slow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.wire.schemes import KeyFamily
from proxy.signing.silence import LinkSilence

EC, RSA = KeyFamily.EC, KeyFamily.RSA


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("family", [None, EC])
def test_so_many_unanswered_probes_in_a_row_end_a_link(limit: int, family: KeyFamily | None) -> None:
    silence = LinkSilence(limit)
    told = [silence.unanswered(family, float(at), heard_at=-1.0) for at in range(limit)]
    assert told == [False] * (limit - 1) + [True]


def test_a_link_on_which_anything_comes_is_not_dead() -> None:
    silence = LinkSilence(2)
    for at in range(20):
        assert not silence.unanswered(RSA, float(at), heard_at=at + 0.5)


def test_what_came_between_two_probes_begins_the_count_anew() -> None:
    silence = LinkSilence(2)
    assert not silence.unanswered(EC, 1.0, heard_at=0.5)
    assert not silence.unanswered(EC, 2.0, heard_at=1.9)
    assert silence.unanswered(EC, 3.0, heard_at=1.9)


def test_probes_of_two_families_at_once_are_one_silence_and_not_two() -> None:
    silence = LinkSilence(2)
    assert not silence.unanswered(EC, 1.0, heard_at=0.0)
    assert not silence.unanswered(RSA, 1.0, heard_at=0.0)
    assert silence.unanswered(RSA, 2.0, heard_at=0.0)


@given(
    limit=st.integers(1, 4),
    heard=st.lists(st.booleans(), max_size=30),
)
def test_it_is_dead_exactly_after_so_many_probes_without_a_byte(limit: int, heard: list[bool]) -> None:
    silence, heard_at, quiet = LinkSilence(limit), -1.0, 0
    for at, is_heard in enumerate(heard):
        if is_heard:
            heard_at = at + 0.5
        quiet = 0 if is_heard else quiet + 1
        assert silence.unanswered(EC, float(at), heard_at) is (quiet >= limit)
