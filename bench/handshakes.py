"""Full handshakes: CPU per handshake beside nginx with a local key, and the rate while signatures are slow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from bench.arena import SITE, compile_client, nginx_with_local_keys, our_cluster, running
from bench.measure import SERVER_CORE, Row, compare, cpu_seconds, run_client
from proxy.demo.cluster import Cluster

KINDS = {"p256": "ECDSA+SHA256", "rsa2048": "RSA-PSS+SHA256"}
CONNECTIONS, SLOW_CONNECTIONS = 50, 100


class Load:
    """The load generator, and what one run of it cost a server."""

    def __init__(self, program: Path, seconds: float) -> None:
        self._program, self._seconds = program, seconds

    def handshakes(self, port: int, kind: str, version: str, connections: int = CONNECTIONS) -> tuple[int, float]:
        """Full handshakes that succeeded, and the seconds they took; a failed one is an error."""
        command = [
            str(self._program),
            "127.0.0.1",
            str(port),
            SITE,
            str(connections),
            str(self._seconds),
            version,
            KINDS[kind],
        ]
        result = json.loads(run_client(command, self._seconds + 30))
        if result["bad"] or not result["good"]:
            raise RuntimeError(f"{result['bad']} handshakes failed, {result['good']} succeeded: {result['error']}")
        return int(result["good"]), float(result["seconds"])

    def cpu_us(self, pid: int, port: int, kind: str, version: str) -> float:
        """CPU microseconds of a process tree per handshake."""
        before = cpu_seconds(pid)
        count, _ = self.handshakes(port, kind, version)
        return (cpu_seconds(pid) - before) / count * 1e6


def _node_cost(load: Load, cluster: Cluster, kind: str) -> str:
    pid = cluster.node_programs["node-1"].pid
    return f"the node itself spent {load.cpu_us(pid, cluster.port, kind, '1.3'):,.0f} us per handshake beside this"


def handshake_cost(
    folder: Path, pairs: int, seconds: float, say: Callable[[str], None], versions: tuple[str, ...]
) -> list[Row]:
    """CPU per full handshake, ours with the key on a node over mTLS, nginx with the key in its memory."""
    load = Load(compile_client(folder), seconds)
    rows = []
    with our_cluster(folder / "ours") as cluster:
        nginx, port = nginx_with_local_keys(folder / "nginx", cluster.web_ports[0])
        with running(nginx, port, SERVER_CORE):
            for version in versions:
                for kind in KINDS:
                    rows.append(
                        compare(
                            f"handshake-{kind}-tls{version.replace('.', '')}",
                            "us CPU per handshake",
                            lambda kind=kind, version=version: load.cpu_us(
                                cluster.proxy.pid, cluster.port, kind, version
                            ),  # type: ignore[misc]
                            lambda kind=kind, version=version: load.cpu_us(nginx.pid, port, kind, version),  # type: ignore[misc]
                            pairs,
                            say=say,
                            note=_node_cost(load, cluster, kind),
                        )
                    )
    return rows


def rate_with_slow_signatures(folder: Path, pairs: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Handshakes per second of one worker at 20 ms per signature ("ours") and at 0 ms ("theirs")."""
    load = Load(compile_client(folder), seconds)

    def rate(cluster: Cluster) -> float:
        count, took_s = load.handshakes(cluster.port, "p256", "1.3", SLOW_CONNECTIONS)
        return count / took_s

    with our_cluster(folder / "slow", delay_ms=20) as slow, our_cluster(folder / "quick", delay_ms=0) as quick:
        return [
            compare(
                "handshake-rate-20ms",
                "handshakes/s",
                lambda: rate(slow),
                lambda: rate(quick),
                pairs,
                say=say,
                note="one worker; ours: 20 ms per signature, theirs: the same proxy at 0 ms",
            )
        ]
