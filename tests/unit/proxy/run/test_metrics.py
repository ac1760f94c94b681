from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.base.errors import HttpReason, SigningReason, TlsReason
from proxy.base.observe import LookupOutcome, NodeState, ProxyObserver
from proxy.config.load import load_config
from proxy.run import metrics
from proxy.run.cells import Kind, Ledger, merge
from proxy.run.control import fleet_numbers
from proxy.run.metrics import FAMILIES, PrometheusObserver, declare_limits
from proxy.run.scrape import exposition
from tests.support.reports import master_report, worker_report

ROOT = Path(__file__).parents[4]


def busy_observer() -> PrometheusObserver:
    """An observer that has heard everything once."""
    observer = PrometheusObserver(Ledger())
    observer.connection_opened("https")
    observer.connection_opened("https")
    observer.connection_closed("https")
    observer.connection_refused("https")
    observer.handshake_started("https")
    observer.handshake_started("https")
    observer.session_started("site", "TLSv1.3", "TLS_AES_128_GCM_SHA256", "X25519", resumed=True, duration_s=0.002)
    observer.session_ended("site", "TLSv1.3", TlsReason.TRUNCATED)
    observer.handshake_failed("", TlsReason.NOT_TLS, 0.1)
    observer.job_started("site", "ecdsa_sha256")
    observer.job_finished("site", "ecdsa_sha256", "node-1", 0.0003)
    observer.job_started("site", "ecdsa_sha256")
    observer.job_failed("site", "ecdsa_sha256", SigningReason.NO_NODE, 0.0)
    observer.attempt_started("node-1")
    observer.attempt_finished("node-1", None, 0.0002)
    observer.attempt_started("node-1")
    observer.attempt_finished("node-1", SigningReason.BUSY, 0.0001)
    observer.probe_finished("node-1", None, 0.001)
    observer.probe_finished("node-1", SigningReason.TIMEOUT, 1.0)
    observer.node_changed("node-1", NodeState.CONNECTING)
    observer.node_changed("node-1", NodeState.UP)
    observer.discovery_answered("hsm", LookupOutcome.OK)
    observer.discovery_answered("hsm", LookupOutcome.TIMEOUT)
    observer.discovery_known("hsm", 2)
    observer.queue_changed(3)
    observer.request_finished("site", "web", "GET", 204, 0.01, 5, 7)
    observer.request_failed("site", "web", HttpReason.UPSTREAM_TIMEOUT, 504)
    observer.upstream_attempted("web", "127.0.0.1:80", None, 0.004)
    observer.upstream_connections_changed("web", "127.0.0.1:80", 2)
    observer.task_crashed("anything")
    return observer


def everything() -> bytes:
    observer = busy_observer()
    declare_limits(observer.ledger, load_config(ROOT / "config" / "proxy.toml"))
    observer.ledger.cells(metrics.DISCOVERED_LIMIT)["hsm",].value = 64
    worker = "worker-0"
    observer.ledger.cells(metrics.WORKER_CPU)[worker,].value = 1
    observer.ledger.cells(metrics.WORKER_MEMORY)[worker,].value = 1
    observer.ledger.cells(metrics.LOOP_DELAY)[worker,].value = 1
    fleet = fleet_numbers(master_report(), [worker_report("worker-0", 11)])
    return exposition(FAMILIES.values(), merge(FAMILIES.values(), [observer.ledger.snapshot(), fleet]))


def test_the_observer_hears_everything_there_is() -> None:
    heard = {name for name, _ in inspect.getmembers(ProxyObserver, inspect.isfunction)}
    counted = {name for name in vars(PrometheusObserver) if not name.startswith("_")}
    assert heard <= counted


def test_what_starts_and_ends_is_back_at_zero() -> None:
    numbers = busy_observer().ledger.snapshot().numbers
    for family in (
        metrics.HANDSHAKES_RUNNING,
        metrics.SESSIONS_ACTIVE,
        metrics.JOBS_RUNNING,
        metrics.ATTEMPTS_RUNNING,
    ):
        assert [value for _, value in numbers[family.name]] == [0], family.name
    assert numbers[metrics.CONNECTIONS_OPEN.name] == [(("https",), 1)]


def test_happenings_have_their_labels() -> None:
    numbers = {name: dict(values) for name, values in busy_observer().ledger.snapshot().numbers.items()}
    assert numbers["sealgate_tls_sessions_total"] == {("site", "TLSv1.3", "true"): 1}
    assert numbers["sealgate_tls_sessions_ended_total"] == {("site", "TLSv1.3", "truncated"): 1}
    assert numbers["sealgate_tls_handshake_failures_total"] == {("", "not_tls"): 1}
    assert numbers["sealgate_node_attempts_total"] == {("node-1", "ok"): 1, ("node-1", "busy"): 1}
    assert numbers["sealgate_signing_jobs_total"][("site", "ecdsa_sha256", "no_node")] == 1
    assert numbers["sealgate_node_up"] == {("node-1",): 1}
    assert numbers["sealgate_discovery_lookups_total"] == {("hsm", "ok"): 1, ("hsm", "timeout"): 1}
    assert numbers["sealgate_discovery_nodes"] == {("hsm",): 2}
    assert numbers["sealgate_node_state"][("node-1", "connecting")] == 0
    assert numbers["sealgate_http_requests_total"] == {("site", "web", "GET", "2xx"): 1}
    assert numbers["sealgate_http_failures_total"] == {("site", "web", "upstream_timeout", "504"): 1}


def test_every_family_has_a_number_once_everything_happened() -> None:
    found = {family.name for family in text_string_to_metric_families(everything().decode())}
    assert {name.removesuffix("_total") for name in FAMILIES} == found


def test_names_follow_the_rules() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"sealgate_[a-z0-9_]+", name)
        assert name.endswith("_total") == (family.kind is Kind.COUNTER), name
        assert family.help.endswith("."), name
        assert list(family.bounds) == sorted(set(family.bounds))
        if family.kind is Kind.HISTOGRAM:
            assert name.endswith("_seconds")
            assert family.bounds[-1] >= 10


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_say() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=everything(), capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_the_document_lists_every_metric_with_its_type_and_labels() -> None:
    types = {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}
    in_code = {
        (family.name, types.get(family.kind, "gauge"), ", ".join(f"`{label}`" for label in family.labels))
        for family in FAMILIES.values()
    }
    rows = re.findall(r"^\| `(sealgate_\w+)` \| (\w+) \| (.*?) \| .+ \|$", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert len(rows) == len(set(rows))
    assert set(rows) == in_code


def test_metrics_the_document_asks_for_exist() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    used = set(re.findall(r"\bsealgate_[a-z_]+", text))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= set(FAMILIES)


def test_counting_a_request_is_cheap() -> None:
    observer = busy_observer()
    rounds = 20_000
    best = float("inf")
    for _ in range(3):
        before = time.process_time()
        for _ in range(rounds):
            observer.request_finished("site", "web", "GET", 200, 0.01, 5, 7)
            observer.upstream_attempted("web", "127.0.0.1:80", None, 0.004)
        best = min(best, (time.process_time() - before) / rounds)
    assert best < 10e-6  # about 1.5 us on an idle machine; this one may be busy
