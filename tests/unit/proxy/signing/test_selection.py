"""The choice among nodes."""

from __future__ import annotations

from collections import Counter
from random import Random

from proxy.signing.selection import LeastOutstanding, NodeLoad


def nodes(*in_flight: int) -> list[NodeLoad]:
    loads = [NodeLoad(name, 10) for name in "abcdef"[: len(in_flight)]]
    for load, count in zip(loads, in_flight, strict=True):
        load.in_flight, load.is_up = count, True
    return loads


def choose(loads: list[NodeLoad], now: float = 0.0, avoid: tuple[str, ...] = ()) -> str | None:
    chosen = LeastOutstanding(Random(1)).choose(loads, now, avoid)
    return chosen.name if chosen else None


def test_the_least_loaded_node_is_chosen() -> None:
    assert choose(nodes(3, 1, 2)) == "b"


def test_ties_are_broken_in_turn() -> None:
    selection = LeastOutstanding(Random(1))
    loads = nodes(0, 0, 0)
    chosen = Counter(str(selection.choose(loads, 0.0)) for _ in range(30))
    assert sorted(chosen.values()) == [10, 10, 10]


def test_workers_start_with_different_nodes() -> None:
    first = {str(LeastOutstanding(Random(seed)).choose(nodes(0, 0, 0), 0.0)) for seed in range(20)}
    assert len(first) == 3


def test_only_nodes_that_can_take_a_request_are_chosen() -> None:
    loads = nodes(0, 0, 0, 10, 5)
    loads[0].is_up = False
    loads[1].is_paused = True
    loads[2].busy_until = 5.0
    assert choose(loads, now=4.0) == "e"
    assert choose(loads, now=5.0) == "c"
    assert choose(loads[:2]) is None
    assert choose([]) is None


def test_nodes_to_avoid_are_avoided() -> None:
    assert choose(nodes(0, 1), avoid=("a",)) == "b"
    assert choose(nodes(0, 1), avoid=("a", "b")) is None


def test_a_suspect_is_the_last_choice() -> None:
    loads = nodes(0, 9)
    loads[0].is_suspect = True
    assert choose(loads) == "b"
    assert choose(loads, avoid=("b",)) == "a"
    loads[1].in_flight = 10
    assert choose(loads) == "a"
