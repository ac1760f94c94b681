"""How the simulator makes a router, and the selections that it compares ours with."""

from __future__ import annotations

from collections.abc import Callable, Container
from random import Random

from bench.routing.topology import NodeSpec, Setting
from proxy.base.policy import NodeAddress, RoutingPolicy, SigningPolicy
from proxy.signing.router import Router
from proxy.signing.selection import Seat, Seats, Selection

SelectionOf = Callable[[Random], Selection]
IN_ROTATION = 3
"""Ranks up to this one are in rotation (`proxy.signing.selection`)."""


class RoundRobin:
    """One after another, whatever they have to do already; nodes whose link or probes are bad are left out."""

    def __init__(self, rng: Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def choose(self, seats: Seats, now: float, avoid: Container[str] = ()) -> Seat | None:
        """See Selection."""
        for _ in seats:
            self._turn += 1
            seat = seats[self._turn % len(seats)]
            if seat.name not in avoid and seat.rank(now) <= IN_ROTATION and seat.can_take(now):
                return seat
        return None


class LeastOutstanding:
    """The one with the fewest requests under way; ties in turn."""

    def __init__(self, rng: Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def choose(self, seats: Seats, now: float, avoid: Container[str] = ()) -> Seat | None:
        """See Selection."""
        self._turn += 1
        best: Seat | None = None
        for step in range(len(seats)):
            seat = seats[(self._turn + step) % len(seats)]
            if best is not None and seat.load.in_flight >= best.load.in_flight:
                continue
            if seat.name not in avoid and seat.rank(now) <= IN_ROTATION and seat.can_take(now):
                best = seat
        return best


def address_of(spec: NodeSpec) -> NodeAddress:
    """The node as the config would name it."""
    return NodeAddress(name=spec.name, address=f"{spec.name}.example:2407", zone=spec.zone, weight=spec.weight)


def make_router(
    setting: Setting, signing: SigningPolicy, routing: RoutingPolicy, selection: SelectionOf | None, rng: Random
) -> Router:
    """A router for the nodes and sites of a setting."""
    return Router(
        [address_of(spec) for spec in setting.nodes],
        signing,
        routing,
        rng=rng,
        kinds={site.ski: site.kind for site in setting.sites},
        site_weights={site.name: site.weight for site in setting.sites},
        selection=selection(rng) if selection is not None else None,
    )
