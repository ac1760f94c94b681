"""Which of the nodes that hold a key is asked. Pure.

The node with the fewest requests under way, ties in turn. A suspect node (its last answer was a failure) is asked
only when no other node can take the job, until a probe or a signature clears it: so a node that hangs costs the
requests it already has, and not every request until the probes take it out.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from random import Random

SUSPECT_WEIGHT = 1 << 30
"""Added to the load of a suspect node; larger than any load."""


class NodeLoad:
    """What the choice needs to know of one node in this worker; the router keeps it."""

    __slots__ = ("busy_streak", "busy_until", "in_flight", "is_paused", "is_suspect", "is_up", "limit", "name")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        """Most requests under way at once."""
        self.in_flight = 0
        self.is_up = False
        self.is_paused = False
        """Every link's send buffer is full."""
        self.is_suspect = False
        self.busy_until = 0.0
        """The node said it is busy; nothing is sent before this time."""
        self.busy_streak = 0
        """Busy answers in a row."""

    def can_take(self, now: float) -> bool:
        """Whether one more request may be sent now."""
        return self.is_up and self.in_flight < self.limit and now >= self.busy_until and not self.is_paused

    def __repr__(self) -> str:
        return f"NodeLoad({self.name!r}, in_flight={self.in_flight}, is_up={self.is_up})"


class LeastOutstanding:
    """Fewest requests under way first; ties in turn, from a random start so that workers are not in step."""

    def __init__(self, rng: Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def choose(self, nodes: Sequence[NodeLoad], now: float, avoid: Container[str] = ()) -> NodeLoad | None:
        """Return the node to ask, or None when none of `nodes` outside `avoid` can take a request now."""
        count = len(nodes)
        if not count:
            return None
        self._turn = turn = self._turn + 1
        best: NodeLoad | None = None
        least = SUSPECT_WEIGHT * 2
        for step in range(count):
            node = nodes[(turn + step) % count]
            if node.in_flight >= least or not node.can_take(now) or node.name in avoid:
                continue
            load = node.in_flight + SUSPECT_WEIGHT if node.is_suspect else node.in_flight
            if load < least:
                best, least = node, load
        return best
