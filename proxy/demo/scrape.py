"""Reads what the proxy says of itself: the few figures that the demo shows, out of `/metrics`."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ProxyFigures:
    """Counters since the start, and how things stand."""

    signatures: dict[str, float] = field(default_factory=dict)
    """Good signatures by node."""
    attempt_failures: dict[str, float] = field(default_factory=dict)
    is_up: dict[str, bool] = field(default_factory=dict)
    handshakes: float = 0.0
    resumed: float = 0.0
    active_sessions: float = 0.0
    handshake_failures: dict[str, float] = field(default_factory=dict)
    requests: float = 0.0
    responses_5xx: float = 0.0
    signature_seconds: float = 0.0
    """Sum over all jobs, for the mean."""
    jobs: float = 0.0


def samples_of(url: str) -> list[tuple[str, dict[str, str], float]]:
    """Every sample of a metrics page: name, labels, value."""
    with urllib.request.urlopen(url + "/metrics", timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def scrape_proxy(url: str) -> ProxyFigures:
    """The proxy's figures, summed over its workers. Raises `OSError` when it does not answer."""
    sums: dict[str, float] = defaultdict(float)
    good: dict[str, float] = defaultdict(float)
    bad: dict[str, float] = defaultdict(float)
    failures: dict[str, float] = defaultdict(float)
    up: dict[str, bool] = {}
    for name, labels, value in samples_of(url):
        sums[name] += value
        match name:
            case "sealgate_node_attempts_total":
                (good if labels["outcome"] == "ok" else bad)[labels["node"]] += value
            case "sealgate_node_up":
                up[labels["node"]] = value >= 1
            case "sealgate_tls_handshake_failures_total":
                failures[labels["reason"]] += value
            case "sealgate_http_requests_total" if labels["status"].startswith("5"):
                sums["5xx"] += value
            case "sealgate_tls_sessions_total" if labels.get("resumed") == "true":
                sums["resumed"] += value
    return ProxyFigures(
        signatures=dict(good),
        attempt_failures=dict(bad),
        is_up=up,
        handshakes=sums["sealgate_tls_sessions_total"],
        resumed=sums["resumed"],
        active_sessions=sums["sealgate_tls_sessions_active"],
        handshake_failures=dict(failures),
        requests=sums["sealgate_http_requests_total"],
        responses_5xx=sums["5xx"],
        signature_seconds=sums["sealgate_signing_duration_seconds_sum"],
        jobs=sums["sealgate_signing_duration_seconds_count"],
    )
