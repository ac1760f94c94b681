"""How much the nodes can still sign, and whether it is enough when one of them is lost. Pure.

What a node can make is known in one of three ways, the best first: the operator says so; it was seen at its limit; or
it is reckoned from the window and the latency (Little's law: what is under way = rate x time).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class CapacityBasis(StrEnum):
    """How a capacity is known."""

    CONFIGURED = "configured"
    MEASURED = "measured"
    """The node was driven to its limit, and this is what came out."""
    ESTIMATED = "estimated"
    """It was never at its limit: reckoned from what it did."""


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """One node, as one worker or a whole fleet sees it."""

    name: str
    is_up: bool
    """Whether it is in rotation."""
    rate_per_s: float
    """Signatures per second it makes now."""
    capacity_per_s: float
    """Signatures per second it can make."""
    basis: CapacityBasis
    window: float
    """Requests that may be under way there now."""
    latency_s: float
    """What an attempt takes there, peak-sensitive; 0 where nothing is known."""


@dataclass(frozen=True, slots=True)
class Headroom:
    """What is used, what there is, and what is left when the worst node is lost."""

    used_per_s: float
    capacity_per_s: float
    """Of the nodes that are up."""
    worst_loss: str
    """The node whose loss takes most; "" without nodes."""
    left_after_loss_per_s: float
    """Capacity of the others less what is used; negative where they could not carry it."""
    lonely_keys: tuple[bytes, ...]
    """Site keys that fewer than two nodes in rotation hold: the loss of one node would silence them."""
    is_n_minus_1_safe: bool
    """Whether any one node may be lost: the rest carries the load, and every key has another node."""
    is_certain: bool
    """No capacity that counts is a mere estimate."""


def headroom(nodes: Sequence[NodeCapacity], holders: Mapping[bytes, Collection[str]]) -> Headroom:
    """Judge `nodes`; `holders` says for each site key which nodes (of any state) hold it."""
    up = [node for node in nodes if node.is_up]
    names = {node.name for node in up}
    lonely = tuple(ski for ski, held_by in holders.items() if len(names.intersection(held_by)) < 2)
    used = sum(node.rate_per_s for node in nodes)
    total = sum(node.capacity_per_s for node in up)
    worst = max(up, key=lambda node: node.capacity_per_s, default=None)
    left = total - (worst.capacity_per_s if worst else 0.0) - used
    return Headroom(
        used_per_s=used,
        capacity_per_s=total,
        worst_loss=worst.name if worst else "",
        left_after_loss_per_s=left,
        lonely_keys=lonely,
        is_n_minus_1_safe=len(up) > 1 and left >= 0 and not lonely,
        is_certain=all(node.basis is not CapacityBasis.ESTIMATED for node in up),
    )
