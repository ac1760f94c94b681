from __future__ import annotations

import inspect
import time

from proxy.base.observe import ProxyObserver
from proxy.run import metrics
from proxy.run.observer import PrometheusObserver
from tests.support.busy_observer import busy_observer


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
    assert numbers["sealgate_node_hedges_total"] == {("node-1",): 2}
    assert numbers["sealgate_node_hedges_won_total"] == {("node-1",): 1}
    assert numbers["sealgate_signing_retries_delayed_total"] == {(): 1}
    assert numbers["sealgate_node_ejections_total"] == {("node-1", "share"): 1}
    assert numbers["sealgate_door_decisions_total"] == {("https", "resumable"): 1, ("https", "shed"): 1}
    assert numbers["sealgate_http_requests_total"] == {("site", "web", "GET", "2xx"): 1}
    assert numbers["sealgate_http_failures_total"] == {("site", "web", "upstream_timeout", "504"): 1}


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


def test_a_node_that_is_gone_is_not_down() -> None:
    observer = busy_observer()
    observer.node_gone("node-1")
    numbers = observer.ledger.snapshot().numbers
    assert numbers["sealgate_node_up"] == []
    assert numbers["sealgate_node_state"] == []
    assert dict(numbers["sealgate_node_attempts_total"])["node-1", "ok"] == 1
