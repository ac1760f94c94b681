"""The silent observer."""

from __future__ import annotations

from hsm.node.access import Denial
from hsm.node.observe import ConnectionEnd, NodeObserver, Outcome
from hsm.wire.schemes import Scheme


def test_the_base_observer_accepts_everything_and_says_nothing() -> None:
    observer = NodeObserver()
    observer.connection_opened()
    observer.connection_ended(ConnectionEnd.IDLE)
    observer.handshake_done("TLSv1.3", 0.1)
    observer.request_signed("vault", "www", Scheme.ED25519, 0.0, 0.0)
    observer.request_ended("www", Scheme.ED25519, Outcome.BUSY)
    observer.request_denied("CN=x", Denial.UNKNOWN_CLIENT)
    observer.keys_changed(("www",))
    observer.management_done("list", is_ok=True)
    observer.task_crashed("refresh")
