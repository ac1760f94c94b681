"""What is wrong, or odd, with nodes, their discovery, and the policies of signing and routing, between right fields.

Pure: no file is opened and no name looked up. `checks.py` asks this beside the other sections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from hsm.shared.addresses import parse_address
from proxy.base.policy import DiscoverySource, RoutingPolicy, SigningPolicy
from proxy.config.findings import Found, Where, repeated, target_problems
from proxy.config.names import folded_name, is_dns_name
from proxy.config.schema import ProxyConfig

SHORTEST_INTERVAL_S = 1.0
"""No source is looked up more often."""


def node_contradictions(config: ProxyConfig) -> Found:
    """Everything that can't be right."""
    yield from _node_problems(config)
    for index, source in enumerate(config.discovery):
        yield from _source_problems(("discovery", index), source)
    yield from _signing_problems(config.signing)
    yield from _routing_problems(config.routing, config.signing)


def node_warnings(config: ProxyConfig) -> Iterator[str]:
    """What works but is likely not meant, as "path: sentence"."""
    yield from _spare_warnings(config)
    yield from _zone_warnings(config)
    yield from _source_warnings(config)
    for field in ("queue_wait_s", "no_node_wait_s"):
        wait_s = getattr(config.routing, field)
        if wait_s > config.signing.job_timeout_s:
            yield (
                f"routing.{field}: {wait_s:g} is more than signing.job_timeout_s ({config.signing.job_timeout_s:g}), "
                "which ends the wait earlier"
            )


def _node_problems(config: ProxyConfig) -> Found:
    if not config.nodes and not config.discovery:
        yield ("nodes",), "there is no node; list each under [[nodes]], or name a DNS record of them in [[discovery]]"
    yield from repeated(("nodes",), "name", (node.name for node in config.nodes))
    yield from repeated(("nodes",), "address", (node.address for node in config.nodes))
    for index, node in enumerate(config.nodes):
        yield from target_problems(("nodes", index, "address"), node.address)
    yield from repeated(("discovery",), "name", (source.name for source in config.discovery))
    names = [node.name for node in config.nodes]
    for index, source in enumerate(config.discovery):
        if source.name in names:
            taken = f"nodes[{names.index(source.name)}]"
            yield ("discovery", index, "name"), f"{source.name!r} is used by {taken} already; each needs its own"


def _source_problems(where: Where, source: DiscoverySource) -> Found:
    if not is_dns_name(source.record):
        yield (
            (*where, "record"),
            f"{source.record!r} is not a DNS name; write one like hsm.example.org, and list nodes of fixed addresses "
            "under [[nodes]]",
        )
    if source.kind == "host" and source.port == 0:
        yield (*where, "port"), 'is missing: A and AAAA records have no port; give that of the nodes, or kind = "srv"'
    if source.kind == "srv" and source.port != 0:
        yield (*where, "port"), f"{source.port} would not be used: SRV records have their own ports; remove it"
    if source.interval_s < SHORTEST_INTERVAL_S:
        yield (
            (*where, "interval_s"),
            f"{source.interval_s:g} is too short: a name is looked up once per second at most; make it 1 or more",
        )
    yield from repeated((*where, "nameservers"), "", source.nameservers)
    for index, address in enumerate(source.nameservers):
        yield from _nameserver_problems((*where, "nameservers", index), address)


def _nameserver_problems(where: Where, address: str) -> Found:
    problems = list(target_problems(where, address))
    yield from problems
    if problems:
        return
    host, _port = parse_address(address)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        yield where, f"{host!r} is a name, and there is nobody to look it up; give the address of the name server"


def _signing_problems(signing: SigningPolicy) -> Found:
    if signing.attempt_timeout_s > signing.job_timeout_s:
        yield (
            ("signing", "attempt_timeout_s"),
            f"{signing.attempt_timeout_s:g} is more than job_timeout_s ({signing.job_timeout_s:g}), so no second node "
            "would be asked; make it smaller",
        )
    if signing.reconnect_min_s > signing.reconnect_max_s:
        yield (
            ("signing", "reconnect_min_s"),
            f"{signing.reconnect_min_s:g} is more than reconnect_max_s ({signing.reconnect_max_s:g}); swap them",
        )


def _routing_problems(routing: RoutingPolicy, signing: SigningPolicy) -> Found:
    if routing.attempt_timeout_min_s > signing.attempt_timeout_s:
        yield (
            ("routing", "attempt_timeout_min_s"),
            f"{routing.attempt_timeout_min_s:g} is more than signing.attempt_timeout_s "
            f"({signing.attempt_timeout_s:g}), the longest wait for one node; make it smaller",
        )
    if routing.eject_min_s > routing.eject_max_s:
        yield (
            ("routing", "eject_min_s"),
            f"{routing.eject_min_s:g} is more than eject_max_s ({routing.eject_max_s:g}); swap them",
        )
    if routing.window_min > routing.window_initial:
        yield (
            ("routing", "window_min"),
            f"{routing.window_min} is more than window_initial ({routing.window_initial}); swap them",
        )
    if routing.window_min > signing.max_in_flight_per_node:
        yield (
            ("routing", "window_min"),
            f"{routing.window_min} is more than signing.max_in_flight_per_node ({signing.max_in_flight_per_node}); "
            "make it smaller",
        )


def _spare_warnings(config: ProxyConfig) -> Iterator[str]:
    if config.discovery or not config.nodes:
        return
    enabled = [node for node in config.nodes if node.state == "enabled"]
    if len(config.nodes) == 1 and enabled:
        yield "nodes: there is only one, so no new session can start while it is down"
    elif not enabled:
        yield "nodes: none is enabled, so no new session can start until one is"
    elif len(enabled) == 1:
        yield f"nodes: only {enabled[0].name} is enabled, so no new session can start while it is down"


def _zone_warnings(config: ProxyConfig) -> Iterator[str]:
    zones = {node.zone for node in config.nodes} | {source.zone for source in config.discovery}
    own = config.routing.zone
    if own and own not in zones:
        yield f"routing.zone: no node and no discovery is in {own!r}, so none is preferred"
    if not own and zones - {""}:
        yield "routing.zone: is not set, so the zones of nodes make no difference"


def _source_warnings(config: ProxyConfig) -> Iterator[str]:
    first: dict[tuple[str, str, int], int] = {}
    for index, source in enumerate(config.discovery):
        asked = (source.kind, folded_name(source.record), source.port)
        if asked in first:
            yield (
                f"discovery[{index}].record: discovery[{first[asked]}] asks for {source.record} too and has its nodes "
                "already"
            )
        first.setdefault(asked, index)
