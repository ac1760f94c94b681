"""Which node holds which key."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.inventory import MAX_REMEMBERED, MISS_MEMORY_S, Inventory

KEY, OTHER = b"k" * 20, b"o" * 20


def test_a_node_not_seen_yet_may_hold_anything() -> None:
    assert Inventory(["a", "b"]).holders(KEY, 0.0) == ("a", "b")


def test_a_list_is_believed_until_the_next_one() -> None:
    inventory = Inventory(["a", "b"])
    inventory.learn("a", [KEY])
    inventory.learn("b", [])
    assert inventory.holders(KEY, 0.0) == ("a",)
    assert inventory.holders(OTHER, 0.0) == ()
    inventory.learn("b", [KEY, OTHER])
    assert inventory.holders(KEY, 0.0) == ("a", "b")
    assert inventory.keys_of("b") == {KEY, OTHER}


def test_a_miss_is_believed_for_a_while() -> None:
    inventory = Inventory(["a"])
    inventory.learn("a", None)
    inventory.learn_missing("a", KEY, 10.0)
    assert inventory.holders(KEY, 10.0 + MISS_MEMORY_S - 0.1) == ()
    assert inventory.holders(OTHER, 10.0) == ("a",)
    assert inventory.holders(KEY, 10.0 + MISS_MEMORY_S) == ("a",)


def test_a_fresh_list_replaces_a_miss() -> None:
    inventory = Inventory(["a", "b"])
    inventory.learn_missing("a", KEY, 0.0)
    inventory.learn_missing("b", KEY, 0.0)
    inventory.learn("a", [KEY])
    assert inventory.holders(KEY, 0.0) == ("a",)


def test_revision_grows_with_every_change() -> None:
    inventory = Inventory(["a"])
    seen = [inventory.revision]
    inventory.learn("a", [KEY])
    seen.append(inventory.revision)
    inventory.learn_missing("a", KEY, 0.0)
    seen.append(inventory.revision)
    inventory.forget_due(MISS_MEMORY_S - 1)
    assert inventory.revision == seen[-1]
    inventory.forget_due(MISS_MEMORY_S)
    seen.append(inventory.revision)
    assert seen == sorted(set(seen))


def test_what_is_remembered_is_bounded() -> None:
    inventory = Inventory(["a"])
    for number in range(MAX_REMEMBERED + 10):
        ski = number.to_bytes(20, "big")
        inventory.learn_missing("a", ski, 0.0)
        inventory.holders(ski, 0.0)
    assert len(inventory._missing) == MAX_REMEMBERED
    assert len(inventory._holders) <= MAX_REMEMBERED


def test_a_node_that_comes_may_hold_anything_and_one_that_goes_holds_nothing() -> None:
    inventory = Inventory(["a"])
    inventory.learn("a", [KEY])
    inventory.add("b")
    assert inventory.holders(OTHER, 0.0) == ("b",)
    assert inventory.keys_of("b") is None
    inventory.learn_missing("b", KEY, 0.0)
    inventory.remove("b")
    assert (inventory.holders(KEY, 0.0), inventory.holders(OTHER, 0.0)) == (("a",), ())
    inventory.add("b")
    assert inventory.holders(KEY, 0.0) == ("a", "b"), "what the node before it missed is not held against it"


def test_nodes_stay_in_the_order_in_which_they_came() -> None:
    inventory = Inventory(["c", "a"])
    inventory.add("b")
    inventory.remove("c")
    inventory.add("c")
    assert inventory.holders(KEY, 0.0) == ("a", "b", "c")


STEP = st.tuples(st.sampled_from(["add", "remove", "list", "plain", "missing", "time"]), st.sampled_from("abcd"))


@given(st.lists(st.tuples(STEP, st.sampled_from([KEY, OTHER]), st.floats(0, MISS_MEMORY_S)), max_size=60))
def test_it_answers_like_plain_sets(steps: list[tuple[tuple[str, str], bytes, float]]) -> None:
    inventory, now = Inventory(()), 0.0
    nodes: dict[str, set[bytes] | None] = {}
    missing: dict[tuple[str, bytes], float] = {}
    for (what, node), ski, pause in steps:
        before, now = inventory.revision, now + (pause if what == "time" else 0.0)
        if what == "add" and node not in nodes:
            nodes[node] = None
            inventory.add(node)
        elif what == "remove" and node in nodes:
            del nodes[node]
            inventory.remove(node)
        elif what in ("list", "plain") and node in nodes:
            nodes[node] = {ski} if what == "list" else None
            inventory.learn(node, nodes[node])
        elif what == "missing" and node in nodes:
            missing[node, ski] = now + MISS_MEMORY_S
            inventory.learn_missing(node, ski, now)
        if what in ("list", "plain", "remove"):
            missing = {pair: until for pair, until in missing.items() if pair[0] != node}
        held_before = inventory.revision
        for key in (KEY, OTHER):
            wanted = [
                name
                for name, listed in nodes.items()
                if (listed is None or key in listed) and missing.get((name, key), now) <= now
            ]
            assert inventory.holders(key, now) == tuple(wanted)
        assert before <= held_before <= inventory.revision
