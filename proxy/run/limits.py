"""Bounds of the config as numbers beside what they bound; and the beginning and end of what is counted of a node."""

from __future__ import annotations

from proxy.base.observe import DoorDecision
from proxy.config.schema import ProxyConfig
from proxy.run import metrics
from proxy.run.cells import Family, Kind, Ledger


def declare_limits(ledger: Ledger, config: ProxyConfig) -> None:
    """Write the bounds of the config beside what they bound, and begin what is counted per node and site at 0."""
    for listener in config.listeners:
        ledger.cells(metrics.CONNECTIONS_LIMIT)[listener.name,].value = listener.max_connections
        _ = ledger.cells(metrics.CONNECTIONS_OPEN)[listener.name,]
        for decision in DoorDecision:
            _ = ledger.cells(metrics.DOOR)[listener.name, decision.value]
    ledger.cells(metrics.JOBS_WAITING_LIMIT)[()].value = config.signing.max_waiting_jobs
    ledger.cells(metrics.QUEUE_WAIT_LIMIT)[()].value = config.routing.queue_wait_s
    ledger.cells(metrics.RETRY_SHARE_LIMIT)[()].value = config.routing.retry_share
    ledger.cells(metrics.HEDGE_SHARE_LIMIT)[()].value = config.routing.hedge_share
    ledger.cells(metrics.EJECTED_SHARE_LIMIT)[()].value = config.routing.max_ejected_share
    for node in config.nodes:
        declare_node(ledger, node.name, config)
    for source in config.discovery:
        ledger.cells(metrics.DISCOVERED_LIMIT)[source.name,].value = source.max_nodes
        _ = ledger.cells(metrics.LOOKUPS)[source.name, metrics.OK]
    for upstream in config.upstreams:
        ledger.cells(metrics.UPSTREAM_WAITING_LIMIT)[upstream.name,].value = upstream.max_waiting
        _ = ledger.cells(metrics.UPSTREAM_WAITING)[upstream.name,]
        for server in upstream.servers:
            ledger.cells(metrics.UPSTREAM_LIMIT)[upstream.name, server].value = upstream.max_connections
    for site in config.sites:
        for version in ("TLSv1.2", "TLSv1.3"):
            _ = ledger.cells(metrics.SESSIONS_ACTIVE)[site.name, version]


def declare_node(ledger: Ledger, name: str, config: ProxyConfig) -> None:
    """Begin what is counted of a node at 0, with its bound beside it. Also for nodes that are discovered later."""
    ledger.cells(metrics.ATTEMPTS_LIMIT)[name,].value = config.signing.max_in_flight_per_node
    _ = ledger.cells(metrics.NODE_UP)[name,], ledger.cells(metrics.ATTEMPTS)[name, metrics.OK]
    _ = ledger.cells(metrics.HEDGES)[name,], ledger.cells(metrics.HEDGES_WON)[name,]


def hide_node(ledger: Ledger, name: str) -> None:
    """Leave out how a node that is gone was last: it is not down, it is not there."""
    for family in (metrics.NODE_UP, metrics.NODE_STATE, metrics.ATTEMPTS_LIMIT):
        _drop(ledger, family, name)


def is_hidden(ledger: Ledger, name: str) -> bool:
    """Whether the node is not declared, or was hidden since."""
    return (name,) not in ledger.cells(metrics.ATTEMPTS_LIMIT)


def forget_node(ledger: Ledger, name: str) -> None:
    """Leave out all numbers of a node that is gone: nodes that are discovered may have new names for ever."""
    for family in metrics.FAMILIES.values():
        if "node" in family.labels:
            _drop(ledger, family, name)


def _drop(ledger: Ledger, family: Family, node: str) -> None:
    at = family.labels.index("node")
    numbers = ledger.spreads(family) if family.kind is Kind.HISTOGRAM else ledger.cells(family)
    for labels in [labels for labels in numbers if labels[at] == node]:
        del numbers[labels]
