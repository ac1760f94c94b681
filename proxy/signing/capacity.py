"""What one node can make, as one worker sees it, from what is known: see `headroom.py` for the three ways. Pure."""

from __future__ import annotations

from hsm.wire.schemes import KeyFamily
from proxy.base.policy import RoutingPolicy
from proxy.signing.headroom import CapacityBasis, NodeCapacity
from proxy.signing.latency import Pace
from proxy.signing.selection import NodeLoad

MEASURED_FOR_S = 600.0
"""How long a measured capacity is believed."""
_ALL = frozenset(KeyFamily)


def capacity_of(load: NodeLoad, routing: RoutingPolicy, now: float) -> NodeCapacity:
    """What the node makes and can make."""
    rate, window = load.rate.read(now), load.window
    if load.capacity_per_s:
        capacity, basis = load.capacity_per_s, CapacityBasis.CONFIGURED
    elif window.measured_per_s and now - window.measured_at < MEASURED_FOR_S:
        capacity, basis = max(window.measured_per_s, rate), CapacityBasis.MEASURED
    else:
        base_s = max((pace.base_s for pace in load.paces.values()), default=0.0)
        reckoned = load.limit / (base_s * routing.window_tolerance) if base_s else 0.0
        capacity, basis = max(rate, reckoned), CapacityBasis.ESTIMATED
    return NodeCapacity(
        name=load.name,
        is_up=load.is_up and load.out_families != _ALL,
        rate_per_s=rate,
        capacity_per_s=capacity,
        basis=basis,
        window=load.limit,
        latency_s=max((_latency_s(pace, now) for pace in load.paces.values()), default=0.0),
    )


def _latency_s(pace: Pace, now: float) -> float:
    """What an attempt is expected to take; 0 before the first. A node that nobody asks does not seem quicker."""
    if not (pace.average.value and pace.usual.median_s):
        return pace.average.value
    return pace.expected_s(now)
