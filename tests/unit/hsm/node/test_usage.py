"""Counting signatures until their token is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hsm.backends.attributes import Usage
from hsm.node.usage import UsageCounts

WALL = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SKI, OTHER = b"\x01" * 20, b"\x02" * 20


def count(counts: UsageCounts, signatures: int, at: float, ski: bytes = SKI, token: str = "vault") -> None:
    kept = counts.of(token, ski)
    kept.signatures += signatures
    kept.last_at = at


def test_what_was_counted_is_taken_once_with_the_time_of_the_last_one() -> None:
    counts = UsageCounts()
    count(counts, 3, at=90.0)
    assert counts.take("vault", WALL, 100.0) == {SKI: Usage(3, WALL - timedelta(seconds=10))}
    assert counts.take("vault", WALL, 100.0) == {}
    count(counts, 1, at=101.0)
    assert counts.take("vault", WALL, 100.0) == {SKI: Usage(1, WALL)}


def test_tokens_are_told_of_their_own_keys_only() -> None:
    counts = UsageCounts()
    count(counts, 1, at=0.0)
    count(counts, 2, at=0.0, token="hsm")
    assert counts.take("hsm", WALL, 0.0)[SKI].signatures == 2
    assert counts.take("vault", WALL, 0.0)[SKI].signatures == 1


def test_what_could_not_be_told_is_told_next_time_together_with_what_came_since() -> None:
    counts = UsageCounts()
    count(counts, 2, at=10.0)
    taken = counts.take("vault", WALL, 10.0)
    count(counts, 5, at=20.0)
    count(counts, 1, at=20.0, ski=OTHER)
    counts.give_back("vault", taken)
    again = counts.take("vault", WALL + timedelta(seconds=10), 20.0)
    assert again == {SKI: Usage(7, WALL + timedelta(seconds=10)), OTHER: Usage(1, WALL + timedelta(seconds=10))}
    counts.give_back("vault", again)
    counts.give_back("vault", {SKI: Usage(1, WALL)})
    assert counts.take("vault", WALL, 0.0)[SKI] == Usage(8, WALL + timedelta(seconds=10))


def test_keys_that_are_gone_are_forgotten_once_they_have_nothing_to_tell() -> None:
    counts = UsageCounts()
    count(counts, 1, at=0.0)
    counts.of("vault", OTHER)
    counts.keep_only("vault", frozenset())
    assert counts.take("vault", WALL, 0.0).keys() == {SKI}
    counts.keep_only("vault", frozenset())
    assert counts.of("vault", SKI).signatures == 0
