"""Samples out of a real metrics page, and the share of the CPU out of /proc/stat."""

from __future__ import annotations

import pytest

from proxy.base.errors import SigningReason, TlsReason
from proxy.chaos.shares import Sample
from proxy.chaos.watch import cpu_busy, cpu_seconds, read_cpu, sample_of
from proxy.run.cells import Ledger, merge
from proxy.run.metrics import FAMILIES
from proxy.run.observer import PrometheusObserver
from proxy.run.scrape import exposition

FAILURES = {("localhost", "signature deadline"): 1.0, ("localhost", f"handshake {TlsReason.TIMEOUT.value}"): 1.0}


def test_a_sample_holds_what_the_proxy_counted() -> None:
    """The page is written by the very code that a proxy has."""
    observer = PrometheusObserver(Ledger())
    for node in ("node-1", "node-1", "node-2", "node-2"):
        observer.attempt_started(node)
    observer.attempt_finished("node-1", None, 0.1)
    observer.attempt_finished("node-2", SigningReason.TIMEOUT, 1.0)
    observer.job_started("localhost", "p256")
    observer.job_finished("localhost", "p256", "node-1", 0.1)
    observer.job_started("localhost", "p256")
    observer.job_failed("localhost", "p256", SigningReason.DEADLINE, 5.0)
    observer.handshake_started("https")
    observer.handshake_failed("localhost", TlsReason.TIMEOUT, 10.0)
    observer.queue_changed(7)
    families = FAMILIES.values()
    text = exposition(families, merge(families, [observer.ledger.snapshot()], [])).decode()
    assert sample_of(text, 3.0) == Sample(3.0, {"node-1": 2.0, "node-2": 2.0}, 2.0, 2.0, 7.0, FAILURES)


def test_an_empty_page_is_a_sample_of_nothing() -> None:
    assert sample_of("# HELP x y\n", 1.0) == Sample(1.0, {}, 0.0, 0.0, 0.0)


def test_cpu_in_use_is_all_but_idle_and_waiting() -> None:
    before = cpu_seconds("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3")
    assert before == (150.0, 1000.0)
    assert cpu_busy(before, (180.0, 1040.0)) == 0.75
    assert cpu_busy(before, before) == 0.0


def test_this_machine_has_cpu_times() -> None:
    used, total = read_cpu()
    assert 0 < used <= total


@pytest.mark.parametrize("line", ['sealgate_node_attempts_total{node="a",outcome="ok"} 1e3'])
def test_large_numbers_are_read(line: str) -> None:
    assert sample_of(line, 0.0).begun == {"a": 1000.0}
