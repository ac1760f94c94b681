from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest

from proxy.base.policy import NodeAdmin
from proxy.run.board import Board, Wishes
from proxy.run.wishes import WishFollower, due


@pytest.fixture
def board() -> Iterator[Board]:
    new = Board.create()
    yield new
    new.remove()


class Nodes:
    """Nodes that do as they are told."""

    def __init__(self, **states: NodeAdmin) -> None:
        self.states = dict(states)
        self.told = 0

    def set_admin(self, name: str, state: NodeAdmin) -> None:
        self.states[name] = state
        self.told += 1


def test_nodes_are_told_what_is_asked_and_only_once(board: Board) -> None:
    nodes, follower = Nodes(a="enabled", b="enabled"), WishFollower(board)
    assert not follower.follow(nodes.states, nodes.set_admin)
    board.publish_wishes(Wishes(states={"b": "draining", "gone": "disabled"}))
    assert follower.follow(nodes.states, nodes.set_admin)
    assert nodes.states == {"a": "enabled", "b": "draining"}
    with patch.object(Board, "wishes", side_effect=AssertionError("nothing changed: it is not read")):
        assert not follower.follow(nodes.states, nodes.set_admin)
    board.publish_wishes(Wishes(states={"b": "enabled"}))
    follower.follow(nodes.states, nodes.set_admin)
    assert (nodes.states["b"], nodes.told) == ("enabled", 2)


def test_a_worker_that_is_forked_later_and_a_node_that_comes_back_are_told_too(board: Board) -> None:
    board.publish_wishes(Wishes(states={"b": "disabled"}))
    nodes, follower = Nodes(b="enabled"), WishFollower(board)
    follower.follow(nodes.states, nodes.set_admin)
    assert nodes.states["b"] == "disabled"
    nodes.states["b"] = "enabled"  # left, and discovered again
    follower.follow(nodes.states, nodes.set_admin)
    assert nodes.states["b"] == "disabled"


def test_only_what_differs_is_due() -> None:
    assert due({"a": "enabled", "b": "draining"}, {"a": "enabled", "b": "enabled", "c": "disabled"}) == {"b": "enabled"}
