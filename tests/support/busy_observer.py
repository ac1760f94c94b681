"""An observer that counts, and has heard everything there is."""

from __future__ import annotations

from proxy.base.errors import HttpReason, SigningReason, TlsReason
from proxy.base.observe import DoorDecision, LookupOutcome, NodeState
from proxy.run.cells import Ledger
from proxy.run.observer import PrometheusObserver


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
    observer.hedge_started("node-1")
    observer.hedge_started("node-1")
    observer.hedge_won("node-1")
    observer.retry_delayed()
    observer.node_ejected("node-1", "share")
    observer.door_decided("https", DoorDecision.RESUMABLE)
    observer.door_decided("https", DoorDecision.SHED)
    observer.request_finished("site", "web", "GET", 204, 0.01, 5, 7)
    observer.request_failed("site", "web", HttpReason.UPSTREAM_TIMEOUT, 504)
    observer.upstream_attempted("web", "127.0.0.1:80", None, 0.004)
    observer.upstream_connections_changed("web", "127.0.0.1:80", 2)
    observer.task_crashed("anything")
    return observer
