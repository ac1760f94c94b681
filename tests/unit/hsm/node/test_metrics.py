"""The node's metrics page."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from hsm.node.access import Denial
from hsm.node.metrics import NodeMetrics
from hsm.node.observe import ConnectionEnd, LaneName, LaneStatus, NodeObserver, NodeStatus, Outcome, TokenStatus
from hsm.wire.schemes import Scheme

DOCUMENT = Path(__file__).parents[4] / "docs" / "node.md"
STATUS = NodeStatus(
    name="node-1",
    version="1.2",
    is_ready=True,
    is_draining=False,
    connections=3,
    connections_limit=10,
    keys=7,
    revision=9,
    uptime_s=1.0,
    tokens=(
        TokenStatus(
            "vault",
            "vault",
            "up",
            7,
            {LaneName.CHEAP: LaneStatus(4, 100, 1, 1, 0, 0.0001), LaneName.DEAR: LaneStatus(0, 50, 2, 4, 1, 0.5)},
            {},
        ),
        TokenStatus(
            "hsm",
            "pkcs11",
            "reopening",
            0,
            {LaneName.AWAITED: LaneStatus(8, 99, 30, 30, 1, 0.1)},
            {"crashes": 2, "hangs": 1},
        ),
    ),
)


def samples(metrics: NodeMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_what_happens_is_counted() -> None:
    metrics = NodeMetrics(with_process=False)
    metrics.connection_opened()
    metrics.connection_ended(ConnectionEnd.IDLE)
    metrics.handshake_done("TLSv1.3", 0.01)
    for _ in range(2):
        metrics.request_signed("vault", "www", Scheme.ECDSA_SHA256, 0.0, 0.00004)
    metrics.request_ended("www", Scheme.ECDSA_SHA256, Outcome.BUSY)
    metrics.request_denied("spiffe://x/*", Denial.KEY_NOT_ALLOWED)
    metrics.management_done("generate", is_ok=False)
    metrics.task_crashed("refresh")
    found = samples(metrics)
    signed = ("sealgate_node_signatures_total", "key=www", "outcome=signed", "scheme=ecdsa_sha256")
    assert found[signed] == 2
    assert found["sealgate_node_signatures_total", "key=www", "outcome=busy", "scheme=ecdsa_sha256"] == 1
    assert found["sealgate_node_sign_duration_seconds_count", "scheme=ecdsa_sha256", "token=vault"] == 2
    assert found["sealgate_node_sign_duration_seconds_bucket", "le=5e-05", "scheme=ecdsa_sha256", "token=vault"] == 2
    assert found["sealgate_node_queue_duration_seconds_count", "scheme=ecdsa_sha256", "token=vault"] == 2
    assert found["sealgate_node_connections_opened_total",] == 1
    assert found["sealgate_node_connections_ended_total", "reason=idle"] == 1
    assert found["sealgate_node_handshakes_total", "version=TLSv1.3"] == 1
    assert found["sealgate_node_denials_total", "client=spiffe://x/*", "reason=key_not_allowed"] == 1
    assert found["sealgate_node_management_operations_total", "operation=generate", "outcome=error"] == 1
    assert found["sealgate_node_task_crashes_total", "task=refresh"] == 1


def test_gauges_are_read_at_the_scrape() -> None:
    metrics = NodeMetrics(with_process=False)
    metrics.watch(lambda: STATUS)
    found = samples(metrics)
    assert found["sealgate_node_connections",] == 3
    assert found["sealgate_node_keys",] == 7
    assert found["sealgate_node_ready",] == 1
    assert found["sealgate_node_draining",] == 0
    assert found["sealgate_node_sealed",] == 0
    assert found["sealgate_node_queue_depth", "lane=cheap", "token=vault"] == 4
    assert found["sealgate_node_queue_limit", "lane=cheap", "token=vault"] == 100
    assert found["sealgate_node_in_flight", "lane=dear", "token=vault"] == 2
    assert found["sealgate_node_in_flight_limit", "lane=dear", "token=vault"] == 4
    assert found["sealgate_node_connections_limit",] == 10
    assert found["sealgate_node_token_up", "kind=vault", "token=vault"] == 1
    assert found["sealgate_node_token_up", "kind=pkcs11", "token=hsm"] == 0
    assert found["sealgate_node_token_keys", "token=vault"] == 7
    assert found["sealgate_node_token_failures_total", "reason=crash", "token=hsm"] == 2
    assert found["sealgate_node_token_failures_total", "reason=hang", "token=hsm"] == 1
    assert ("sealgate_node_token_failures_total", "reason=crash", "token=vault") not in found, "it has no process"
    assert found["sealgate_node_queue_depth", "lane=awaited", "token=hsm"] == 8
    assert found["sealgate_node_abandoned", "lane=dear", "token=vault"] == 1
    assert found["sealgate_node_build_info", "node=node-1", "version=1.2"] == 1


def test_names_follow_the_prometheus_style() -> None:
    metrics = NodeMetrics(with_process=False)
    metrics.watch(lambda: STATUS)
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert re.fullmatch(r"sealgate_node_[a-z_]+", family.name)
        assert family.documentation
        assert family.type != "unknown"


def test_every_metric_is_documented() -> None:
    metrics = NodeMetrics(with_process=False)
    metrics.watch(lambda: STATUS)
    listed = set(re.findall(r"`(sealgate_node_[a-z_]+)`", DOCUMENT.read_text()))
    served = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(metrics.exposition().decode())
        if not family.name.endswith("_created")
    }
    assert listed == served


def test_every_happening_is_heard() -> None:
    ignored = {"keys_changed"}
    happenings = {name for name in vars(NodeObserver) if not name.startswith("_")}
    assert happenings - set(vars(NodeMetrics)) == ignored


def test_process_figures_are_there_in_a_real_node() -> None:
    assert b"process_resident_memory_bytes" in NodeMetrics().exposition()
