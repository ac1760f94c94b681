"""The policies that are compared: ours, and what peers do, each as settings and a selection for the same router."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from bench.routing import adapter
from proxy.base.policy import RoutingPolicy, SigningPolicy


def signing_policy(**changes: object) -> SigningPolicy:
    """`[signing]` with its defaults, but for `changes`."""
    return SigningPolicy(ca="ca.pem", certificate="proxy.pem", private_key="proxy.key", **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to route."""

    name: str
    signing: SigningPolicy
    routing: RoutingPolicy
    selection: adapter.SelectionOf | None = None
    """None: the router's own."""

    def with_routing(self, name: str, **changes: object) -> Policy:
        """The same with some settings of `[routing]` changed."""
        return replace(self, name=name, routing=msgspec.structs.replace(self.routing, **changes))


def as_peers(signing: SigningPolicy) -> RoutingPolicy:
    """What makes a router plain: a fixed window and attempt timeout, retries without a budget, no hedges, no bulkheads,
    no ejection by results. Link and probes still take a node out."""
    return RoutingPolicy(
        window_initial=signing.max_in_flight_per_node,
        window_min=signing.max_in_flight_per_node,
        key_share=1.0,
        queue_wait_s=signing.job_timeout_s,
        attempt_timeout_min_s=signing.attempt_timeout_s,
        retry_share=1.0,
        hedge_share=0.0,
        eject_after=1000,
        eject_error_share=1.0,
        eject_volume=1_000_000,
        zone_factor=1000.0,
        ramp_up_s=0.0,
    )


_SIGNING = signing_policy()
OURS = Policy("ours", _SIGNING, RoutingPolicy())
ROUND_ROBIN = Policy("round robin", _SIGNING, as_peers(_SIGNING), adapter.RoundRobin)
LEAST_OUTSTANDING = Policy("least outstanding", _SIGNING, as_peers(_SIGNING), adapter.LeastOutstanding)
POLICIES = (ROUND_ROBIN, LEAST_OUTSTANDING, OURS)
