"""What a worker does with wishes about nodes: it looks whether there are new ones, and tells the nodes concerned.

A wish ("drain node-2") goes before the `state` of the config. It is about a name: nodes that come back under it, and
workers that are forked later, are told the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from proxy.base.policy import NodeAdmin
from proxy.run.board import Board

ENABLED: NodeAdmin = "enabled"


class WishFollower:
    """Keeps one worker's nodes as they are asked to be."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._version: tuple[int, int] | None = None
        self._wishes: Mapping[str, NodeAdmin] = {}

    def follow(self, nodes: Mapping[str, NodeAdmin], set_admin: Callable[[str, NodeAdmin], object]) -> bool:
        """Tell those of `nodes` (each with what it was told last) that should change; True where there were some.

        Cheap where nothing was asked: one stat(2).
        """
        version = self._board.wishes_version()
        if version != self._version:
            self._version, self._wishes = version, self._board.wishes().states
        changes = due(nodes, self._wishes)
        for name, state in changes.items():
            set_admin(name, state)
        return bool(changes)


def due(nodes: Mapping[str, NodeAdmin], wishes: Mapping[str, NodeAdmin]) -> dict[str, NodeAdmin]:
    """The nodes whose state has to change, with their new states. Pure."""
    return {name: wishes[name] for name, state in nodes.items() if wishes.get(name, state) != state}
