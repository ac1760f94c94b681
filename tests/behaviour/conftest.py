"""Real programs for the tests of this folder: a whole cluster, started once or, where a test breaks it, afresh."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import Program, free_port, listens


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Waits for a condition; its absence at the deadline fails the test and says what was missing."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"still not true after {timeout_s:g} s: {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """`wait(condition, what, timeout_s=15)`."""
    return wait_for


@contextlib.contextmanager
def started(spec: ClusterSpec) -> Iterator[Cluster]:
    """A running cluster."""
    cluster = Cluster(spec)
    cluster.prepare()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, two web servers, two workers. Tests must leave it as they found it."""
    with started(ClusterSpec(tmp_path_factory.mktemp("cluster"))) as running:
        yield running


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters for one test alone: `own_cluster(nodes=2, workers=1)`."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(**options: object) -> Cluster:
            nonlocal count
            count += 1
            return stack.enter_context(started(ClusterSpec(tmp_path / f"cluster-{count}", **options)))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def slow_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of one node behind a relay that delays every signature: `slow_cluster(delay_ms=300)`."""
    with contextlib.ExitStack() as stack:

        def make(delay_ms: float, **options: object) -> Cluster:
            patience = "connect_timeout_s = 20\nprobe_timeout_s = 10\nattempt_timeout_s = 10\njob_timeout_s = 10"
            spec = ClusterSpec(tmp_path / "slow", nodes=1, signing_config=patience, **options)  # type: ignore[arg-type]
            cluster = Cluster(spec)
            cluster.prepare()
            node, port = cluster.nodes["node-1"], free_port()
            relay = Program(
                "relay",
                [sys.executable, "-m", "bench.delay", str(port), str(node.port), str(delay_ms)],
                tmp_path / "relay.log",
            )
            relay.start()
            stack.callback(relay.stop)
            relay.wait_until(listens("127.0.0.1", port), 10)
            text = cluster.proxy_config.read_text()
            cluster.proxy_config.write_text(text.replace(f'"127.0.0.1:{node.port}"', f'"127.0.0.1:{port}"'))
            cluster.start()
            stack.callback(cluster.stop)
            return cluster

        yield make
