"""The node's metrics: the only file that spells their names, labels and buckets.

Labels are bounded: schemes, outcomes, lanes and reasons are enums; clients are patterns of the config; keys are labels
of keys the node holds or has held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hsm.node.observe import ConnectionEnd, DenialReason, LaneStatus, NodeObserver, NodeStatus, Outcome
from hsm.wire.schemes import Scheme

SIGN_BUCKETS_S = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
QUEUE_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class NodeMetrics(NodeObserver):
    """Counts what happens, in a registry of its own."""

    def __init__(self, *, with_process: bool = True) -> None:
        self._registry = CollectorRegistry()
        self._define()
        self._signed: dict[tuple[str, str, Scheme], tuple[Any, Any, Any]] = {}
        if with_process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)

    def _define(self) -> None:
        registry = self._registry
        self._signatures = Counter(
            "sealgate_node_signatures_total",
            "Requests for a signature, by how they ended.",
            ("key", "scheme", "outcome"),
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "sealgate_node_queue_duration_seconds",
            "Time a signed request waited before its signature was begun.",
            ("token", "scheme"),
            buckets=QUEUE_BUCKETS_S,
            registry=registry,
        )
        self._sign_seconds = Histogram(
            "sealgate_node_sign_duration_seconds",
            "Time the token took for a signature.",
            ("token", "scheme"),
            buckets=SIGN_BUCKETS_S,
            registry=registry,
        )
        self._denials = Counter(
            "sealgate_node_denials_total",
            'Requests that were denied; client is the matching pattern of the access list, or "unknown".',
            ("client", "reason"),
            registry=registry,
        )
        self._opened = Counter("sealgate_node_connections_opened_total", "Connections accepted.", registry=registry)
        self._ended = Counter(
            "sealgate_node_connections_ended_total",
            "Connections that ended, by reason.",
            ("reason",),
            registry=registry,
        )
        self._handshakes = Counter(
            "sealgate_node_handshakes_total",
            "Clients that authenticated, by TLS version.",
            ("version",),
            registry=registry,
        )
        self._management = Counter(
            "sealgate_node_management_operations_total",
            "Key management operations.",
            ("operation", "outcome"),
            registry=registry,
        )
        self._crashes = Counter(
            "sealgate_node_task_crashes_total",
            "Background tasks that ended unexpectedly.",
            ("task",),
            registry=registry,
        )
        for reason in ConnectionEnd:
            self._ended.labels(reason.value)

    def watch(self, status: Callable[[], NodeStatus]) -> None:
        """Adds the gauges, read from `status` when somebody scrapes."""
        self._registry.register(_StatusCollector(status))

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def connection_opened(self) -> None:
        self._opened.inc()

    def connection_ended(self, reason: ConnectionEnd) -> None:
        self._ended.labels(reason.value).inc()

    def handshake_done(self, version: str, duration_s: float) -> None:
        self._handshakes.labels(version).inc()

    def request_signed(self, token: str, key: str, scheme: Scheme, queue_s: float, sign_s: float) -> None:
        # Looking labels up costs more than counting; this is the hot path.
        children = self._signed.get((token, key, scheme))
        if children is None:
            name = scheme.value
            children = self._signed[token, key, scheme] = (
                self._signatures.labels(key, name, Outcome.SIGNED.value),
                self._queue_seconds.labels(token, name),
                self._sign_seconds.labels(token, name),
            )
        children[0].inc()
        children[1].observe(queue_s)
        children[2].observe(sign_s)

    def request_ended(self, key: str, scheme: Scheme, outcome: Outcome) -> None:
        self._signatures.labels(key, scheme.value, outcome.value).inc()

    def request_denied(self, client: str, reason: DenialReason) -> None:
        self._denials.labels(client, reason.value).inc()

    def management_done(self, operation: str, *, is_ok: bool) -> None:
        self._management.labels(operation, "ok" if is_ok else "error").inc()

    def task_crashed(self, name: str) -> None:
        self._crashes.labels(name).inc()


class _StatusCollector(Collector):
    """Gauges of the moment of the scrape."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry must not ask a node that has not started yet."""
        return ()

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        yield GaugeMetricFamily("sealgate_node_connections", "Connections open now.", status.connections)
        yield GaugeMetricFamily(
            "sealgate_node_connections_limit", "Connections that may be open.", status.connections_limit
        )
        yield GaugeMetricFamily("sealgate_node_keys", "Keys the node can sign with.", status.keys)
        yield GaugeMetricFamily("sealgate_node_draining", "1 while the node shuts down.", int(status.is_draining))
        yield GaugeMetricFamily("sealgate_node_ready", "1 while the node serves.", int(status.is_ready))
        yield GaugeMetricFamily("sealgate_node_sealed", "Vaults that wait for their shares.", len(status.sealed))
        yield from self._tokens(status)
        yield from self._lanes(status)
        info = GaugeMetricFamily("sealgate_node_build_info", "Always 1.", labels=("version", "node"))
        info.add_metric((status.version, status.name), 1)
        yield info

    def _tokens(self, status: NodeStatus) -> Iterable[Metric]:
        up = GaugeMetricFamily("sealgate_node_token_up", "1 while the token can sign.", labels=("token", "kind"))
        keys = GaugeMetricFamily("sealgate_node_token_keys", "Keys the token signs with.", labels=("token",))
        failures = CounterMetricFamily(
            "sealgate_node_token_failures_total",
            "Processes of tokens that crashed or hung, and were replaced.",
            labels=("token", "reason"),
        )
        for token in status.tokens:
            up.add_metric((token.name, token.kind), int(token.is_up))
            keys.add_metric((token.name,), token.keys)
            for reason, detail in _TOKEN_FAILURES:
                count = token.details.get(detail)
                if isinstance(count, int):
                    failures.add_metric((token.name, reason), count)
        yield up
        yield keys
        yield failures

    def _lanes(self, status: NodeStatus) -> Iterable[Metric]:
        for name, text, read in _LANE_GAUGES:
            family = GaugeMetricFamily(name, text, labels=("token", "lane"))
            for token in status.tokens:
                for lane, lane_status in token.lanes.items():
                    family.add_metric((token.name, lane.value), read(lane_status))
            yield family


_TOKEN_FAILURES = (("crash", "crashes"), ("hang", "hangs"))
"""Labels, and what tokens with a process of their own call them in their details."""

_LANE_GAUGES: tuple[tuple[str, str, Callable[[LaneStatus], float]], ...] = (
    ("sealgate_node_queue_depth", "Requests that wait.", lambda lane: lane.queued),
    ("sealgate_node_queue_limit", "Requests that may wait.", lambda lane: lane.queue_limit),
    ("sealgate_node_in_flight_limit", "Signatures that may be under way.", lambda lane: lane.places),
    ("sealgate_node_in_flight", "Signatures under way, abandoned ones included.", lambda lane: lane.in_flight),
    ("sealgate_node_abandoned", "Signatures under way that nobody waits for.", lambda lane: lane.abandoned),
    ("sealgate_node_service_seconds", "Recent time per signature, moving average.", lambda lane: lane.service_s),
)
