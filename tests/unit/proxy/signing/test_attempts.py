"""Who is at which node: counted once, and nothing left behind."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.attempts import Attempts
from tests.support.seats import job, seat


def test_an_attempt_ends_with_its_time_or_with_its_job() -> None:
    attempts, node = Attempts(), seat("a")
    assert attempts.begin(job(deadline=9.0), node, 5.0, 1.0).deadline == 6.0
    assert attempts.begin(job(deadline=5.5), node, 5.0, 1.0).deadline == 5.5


def test_the_second_attempt_takes_the_place_of_the_first() -> None:
    attempts, routed = Attempts(), job()
    first = attempts.begin(routed, seat("a"), 0.0, 1.0)
    second = attempts.begin(routed, seat("b"), 0.5, 1.0, is_hedge=True)
    assert (routed.attempt, routed.hedge, second.is_hedge) == (first, second, True)
    attempts.end(first)
    assert (routed.attempt, routed.hedge) == (second, None)
    attempts.end(second)
    assert (routed.attempt, routed.hedge, len(attempts)) == (None, None, 0)


def test_the_first_attempt_stays_when_the_second_ends() -> None:
    attempts, routed = Attempts(), job()
    first = attempts.begin(routed, seat("a"), 0.0, 1.0)
    second = attempts.begin(routed, seat("b"), 0.5, 1.0, is_hedge=True)
    attempts.end(second)
    assert (routed.attempt, routed.hedge, second.is_over, first.is_over) == (first, None, True, False)


@given(st.lists(st.integers(0, 5), max_size=60), st.randoms(use_true_random=False))
def test_counts_are_those_of_the_attempts_under_way(steps: list[int], rng: Random) -> None:
    attempts, nodes, held = Attempts(), [seat(name) for name in "abc"], []
    for step in steps:
        if step < 3 or not held:
            held.append(attempts.begin(job(), nodes[step % 3], 0.0, 1.0))
        else:
            attempts.end(held.pop(rng.randrange(len(held))))
        assert attempts.all() == held
        for node in nodes:
            there = [each for each in held if each.seat is node]
            assert attempts.at(node.load) == there
            assert node.in_flight == node.load.in_flight == len(there)
