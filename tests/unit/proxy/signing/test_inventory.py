"""Which node holds which key."""

from __future__ import annotations

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
