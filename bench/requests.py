"""Requests over kept connections, and bulk: CPU per request and bytes per CPU-second, beside nginx as the proxy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from bench.arena import nginx_with_local_keys, our_cluster, running
from bench.measure import SERVER_CORE, Row, compare, cpu_seconds, run_client

BULK_BYTES = 10_000_000


def _wrk(port: int, path: str, connections: int, seconds: float) -> int:
    """Requests that wrk completed; an error or another status than 200 is an error of the benchmark."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", f"https://localhost:{port}{path}"]
    output = run_client(command, seconds + 30)
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"wrk saw errors:\n{output}")
    found = re.search(r"(\d+) requests in", output)
    if found is None:
        raise RuntimeError(f"wrk said something new:\n{output}")
    return int(found[1])


def request_cost(folder: Path, pairs: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """CPU per small request over 50 kept connections, and megabytes per CPU-second of 10 MB bodies over 4."""

    def cost_us(pid: int, port: int) -> float:
        before = cpu_seconds(pid)
        return _cost(pid, before, _wrk(port, "/small", 50, seconds)) * 1e6

    def megabytes(pid: int, port: int) -> float:
        before = cpu_seconds(pid)
        return BULK_BYTES / 1e6 / _cost(pid, before, _wrk(port, "/bulk.bin", 4, seconds))

    with our_cluster(folder / "http") as cluster:
        bulk = cluster.spec.directory / "web-1" / "root" / "bulk.bin"
        bulk.write_bytes(b"\0" * BULK_BYTES)
        nginx, port = nginx_with_local_keys(folder / "http-nginx", cluster.web_ports[0])
        with running(nginx, port, SERVER_CORE):
            ours, theirs = (cluster.proxy.pid, cluster.port), (nginx.pid, port)
            return [
                compare(
                    "http1-keepalive-small",
                    "us CPU per request",
                    lambda: cost_us(*ours),
                    lambda: cost_us(*theirs),
                    pairs,
                    say=say,
                ),
                compare(
                    "http1-bulk-download",
                    "MB per CPU-second",
                    lambda: megabytes(*ours),
                    lambda: megabytes(*theirs),
                    pairs,
                    say=say,
                ),
            ]


def _cost(pid: int, before: float, requests: int) -> float:
    return (cpu_seconds(pid) - before) / requests
