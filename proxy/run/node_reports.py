"""What a worker says of its nodes on the board, and the numbers it keeps of nodes that come and go. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from proxy.config.schema import ProxyConfig
from proxy.run.board import MAX_KEYS_REPORTED, NodeReport
from proxy.run.cells import Ledger
from proxy.run.limits import declare_node, forget_node, is_hidden
from proxy.signing.headroom import CapacityBasis, NodeCapacity

if TYPE_CHECKING:
    from proxy.signing.node import NodeStatus  # imports cryptography, which must wait for the provider

FORGET_AFTER_S = 600.0
"""How long the counters of a node that left stay: scrapes must see their last values."""
_UNKNOWN = NodeCapacity("", False, 0.0, 0.0, CapacityBasis.ESTIMATED, 0.0, 0.0)


def node_reports(nodes: Iterable[NodeStatus], capacities: Iterable[NodeCapacity]) -> tuple[NodeReport, ...]:
    """All that one worker knows of each node."""
    known = {capacity.name: capacity for capacity in capacities}
    return tuple(_report(node, known.get(node.name, _UNKNOWN)) for node in nodes)


def reported_holders(holders: Mapping[bytes, Sequence[str]]) -> tuple[dict[str, tuple[str, ...]], int]:
    """Who holds which site key (SKI in hex), and how many keys are left out because there are too many."""
    shown = {ski.hex(): tuple(names) for ski, names in islice(holders.items(), MAX_KEYS_REPORTED)}
    return shown, len(holders) - len(shown)


class NodeNumbers:
    """Begins the numbers of nodes that appear, and ends those of nodes that left."""

    def __init__(self, ledger: Ledger, config: ProxyConfig) -> None:
        self._ledger, self._config = ledger, config
        self._present = {node.name for node in config.nodes}
        self._left: dict[str, float] = {}

    def keep(self, names: Iterable[str], now: float) -> None:
        """`names` are the nodes that there are now."""
        present = set(names)
        for name in present:
            if name not in self._present or is_hidden(self._ledger, name):  # hidden: it left and is back, unseen
                declare_node(self._ledger, name, self._config)
                self._left.pop(name, None)
        self._left |= dict.fromkeys(self._present - present, now)
        self._present = present
        for name in [name for name, since in self._left.items() if now - since >= FORGET_AFTER_S]:
            forget_node(self._ledger, name)
            del self._left[name]


def _report(node: NodeStatus, capacity: NodeCapacity) -> NodeReport:
    return NodeReport(
        name=node.name,
        address=node.address,
        state=node.state.value,
        in_flight=node.in_flight,
        keys=node.keys,
        signatures=node.signatures,
        failures=node.failures,
        last_error=node.last_error,
        zone=node.zone,
        weight=node.weight,
        admin=node.admin,
        is_up=capacity.is_up,
        window=capacity.window,
        latency_s=capacity.latency_s,
        rate_per_s=capacity.rate_per_s,
        capacity_per_s=capacity.capacity_per_s,
        basis=capacity.basis.value,
    )
