"""Which node holds which key. Pure.

A Sealgate node lists its keys when a link opens and whenever they change. A plain Keyless node can't: it is assumed to
hold every key until it answers "key not found" for one, and that miss is forgotten after `MISS_MEMORY_S`, because a
plain node has no way to say that the key has arrived. What is known of a node outlives its link, so that a job for a
key of a node that is down waits for that node and fails at once only when no node can ever have the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MISS_MEMORY_S = 30.0
"""How long "key not found" is believed, in seconds; a fresh list replaces it earlier."""
MAX_REMEMBERED = 4096
"""Bound of the answers kept per key; keys come from the config, so it is never reached in practice."""


class Inventory:
    """Keys (SKIs) by node.

    `revision` grows with every change, so that callers may keep what they derived from it.
    """

    def __init__(self, nodes: Sequence[str]) -> None:
        self._nodes = tuple(nodes)
        self._listed: dict[str, frozenset[bytes] | None] = dict.fromkeys(nodes)
        self._missing: dict[tuple[str, bytes], float] = {}
        self._next_forget = float("inf")
        self._holders: dict[bytes, tuple[str, ...]] = {}
        self.revision = 0

    def add(self, node: str) -> None:
        """A node more, of whose keys nothing is known."""
        self._nodes += (node,)
        self._listed[node] = None
        self._changed()

    def remove(self, node: str) -> None:
        """A node less."""
        self._nodes = tuple(each for each in self._nodes if each != node)
        del self._listed[node]
        self._missing = {pair: until for pair, until in self._missing.items() if pair[0] != node}
        self._changed()

    def learn(self, node: str, skis: Iterable[bytes] | None) -> None:
        """Replace what is known of `node`: its list of keys, or None for a node that can't list them."""
        self._listed[node] = None if skis is None else frozenset(skis)
        self._missing = {pair: until for pair, until in self._missing.items() if pair[0] != node}
        self._changed()

    def learn_missing(self, node: str, ski: bytes, now: float) -> None:
        """Remember that `node` said it has no such key."""
        if len(self._missing) >= MAX_REMEMBERED:
            self._missing.pop(next(iter(self._missing)))
        self._missing[node, ski] = now + MISS_MEMORY_S
        self._next_forget = min(self._next_forget, now + MISS_MEMORY_S)
        self._changed()

    def holders(self, ski: bytes, now: float) -> tuple[str, ...]:
        """Nodes that have the key, or may have it, whatever their health; in the order of the config."""
        if now >= self._next_forget:
            self._forget(now)
        found = self._holders.get(ski)
        if found is None:
            found = tuple(node for node in self._nodes if self._may_hold(node, ski))
            if len(self._holders) >= MAX_REMEMBERED:
                self._holders.clear()
            self._holders[ski] = found
        return found

    def keys_of(self, node: str) -> frozenset[bytes] | None:
        """The list a node gave, or None where it gave none (yet)."""
        return self._listed[node]

    def forget_due(self, now: float) -> None:
        """Drop misses that are too old to be believed; raises `revision` when there were any."""
        if now >= self._next_forget:
            self._forget(now)

    def _may_hold(self, node: str, ski: bytes) -> bool:
        listed = self._listed[node]
        return (listed is None or ski in listed) and (node, ski) not in self._missing

    def _forget(self, now: float) -> None:
        self._missing = {pair: until for pair, until in self._missing.items() if until > now}
        self._next_forget = min(self._missing.values(), default=float("inf"))
        self._changed()

    def _changed(self) -> None:
        self._holders.clear()
        self.revision += 1
