"""Whether the nodes carry the load when one of them is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.headroom import CapacityBasis, NodeCapacity, headroom

A, B = b"a" * 20, b"b" * 20
CAPACITY_PER_S = 100.0


def node(
    name: str, rate_per_s: float, capacity_per_s: float = CAPACITY_PER_S, *, is_up: bool = True, is_guess: bool = False
) -> NodeCapacity:
    basis = CapacityBasis.ESTIMATED if is_guess else CapacityBasis.MEASURED
    return NodeCapacity(name, is_up, rate_per_s, capacity_per_s, basis, 8, 0.01)


def test_two_of_three_must_carry_what_is_used() -> None:
    found = headroom([node("a", 60), node("b", 60), node("c", 60)], {A: "abc"})
    assert (found.used_per_s, found.capacity_per_s, found.left_after_loss_per_s) == (180, 300, 20)
    assert found.is_n_minus_1_safe
    assert not headroom([node("a", 70), node("b", 70), node("c", 70)], {A: "abc"}).is_n_minus_1_safe


def test_the_worst_loss_is_the_largest_node() -> None:
    found = headroom([node("a", 10), node("b", 10, 300), node("c", 10)], {})
    assert (found.worst_loss, found.left_after_loss_per_s) == ("b", 170)


def test_a_node_that_is_down_carries_nothing() -> None:
    found = headroom([node("a", 60), node("b", 60), node("c", 0, is_up=False)], {})
    assert found.capacity_per_s == 200
    assert not found.is_n_minus_1_safe


@pytest.mark.parametrize(("held_by", "is_lonely"), [("ab", False), ("a", True), ("", True), ("ac", True)])
def test_a_key_with_fewer_than_two_nodes_in_rotation_is_lonely(held_by: str, is_lonely: bool) -> None:
    found = headroom([node("a", 1), node("b", 1), node("c", 0, is_up=False)], {A: "ab", B: held_by})
    assert found.lonely_keys == ((B,) if is_lonely else ())
    assert found.is_n_minus_1_safe is not is_lonely


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_second_node_nothing_may_be_lost(count: int) -> None:
    found = headroom([node("a", 0)][:count], {})
    assert not found.is_n_minus_1_safe
    assert found.worst_loss == "a" * count


def test_an_estimate_that_counts_makes_it_uncertain() -> None:
    assert headroom([node("a", 1), node("b", 1, is_up=False, is_guess=True)], {}).is_certain
    assert not headroom([node("a", 1), node("b", 1, is_guess=True)], {}).is_certain


@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 1e4), st.booleans()), max_size=6))
def test_safe_means_that_the_rest_carries_the_load_whichever_node_is_lost(
    nodes: list[tuple[float, float, bool]],
) -> None:
    made = [node(str(index), rate, capacity, is_up=is_up) for index, (rate, capacity, is_up) in enumerate(nodes)]
    up = [each for each in made if each.is_up]
    used = sum(each.rate_per_s for each in made)
    left = [sum(each.capacity_per_s for each in up if each is not lost) - used for lost in up]
    found = headroom(made, {})
    if not any(abs(each) < 1e-6 for each in left):
        assert found.is_n_minus_1_safe is (len(up) > 1 and min(left) >= 0)
