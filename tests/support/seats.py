"""Nodes, keys and jobs as the router's parts see them, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.jobs import SignJob
from proxy.base.policy import NodeAddress, RoutingPolicy, SigningPolicy
from proxy.signing.commands import Attempt, RoutedJob
from proxy.signing.facts import NodeFacts
from proxy.signing.latency import Pace, Usual
from proxy.signing.selection import NodeLoad, Seat, Seats

KEY, OTHER = b"k" * 20, b"o" * 20
FOREVER = 1e9
USABLE = NodeFacts(is_usable=True)


def address(name: str, **changes: Any) -> NodeAddress:
    """A node."""
    return NodeAddress(name=name, address=f"{name}.test:2407", **changes)


def policy(**changes: Any) -> SigningPolicy:
    """The defaults, but for `changes`."""
    return SigningPolicy(ca="ca.pem", certificate="proxy.pem", private_key="proxy.key", **changes)


def seat(
    name: str,
    routing: RoutingPolicy | None = None,
    *,
    latency_s: float = 0.0,
    limit: int = 0,
    weight: float = 1.0,
    **changes: Any,
) -> Seat:
    """One key at one node that may be asked; `changes` are those of its address."""
    routing = routing or RoutingPolicy()
    load = NodeLoad(address(name, **changes), routing, 1000)
    load.facts, load.weight = USABLE, weight
    if limit:
        load.limit = load.key_limit = limit
    made = Seat(KEY, KeyFamily.EC, load, Pace(Usual(0.95), routing.latency_memory_s), routing)
    if latency_s:
        made.pace.average.add(latency_s, 0.0)
    return made


def seats(made: Iterable[Seat]) -> Seats:
    """The nodes of one key."""
    return Seats.of(made)


def job(ski: bytes = KEY, site: str = "site", *, deadline: float = FOREVER, started: float = 0.0) -> RoutedJob:
    """A job on its way."""
    wanted = SignJob(ski=ski, scheme=Scheme.ECDSA_SHA256, message=b"hello", site=site, deadline=deadline)
    return RoutedJob(wanted, started, deadline)


def attempt(where: Seat, *, started: float = 0.0, deadline: float = 1.0, of: RoutedJob | None = None) -> Attempt:
    """A job at a node, without the counting."""
    return Attempt(of or job(where.ski), where, started, deadline)
