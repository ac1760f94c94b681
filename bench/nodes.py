"""Signatures per second through a node, for each backend, beside the raw rate of what it signs with on the same core.

64 requests are under way on one mTLS link. The node (and the worker of its token) has one core, the client the other.
Raw is `openssl speed` for the vault, and for SoftHSM2 a loop of direct PKCS#11 calls in C (pkcs11_speed.c).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.measure import SERVER_CORE, Row, compare, cpu_seconds, pin, run_client
from certs.site_keys import Pkcs11Place
from hsm.wire.schemes import Scheme
from proxy.demo.cluster import Cluster, ClusterSpec

if TYPE_CHECKING:
    from proxy.demo.configs import TokenKind

Clock = Literal["wall", "cpu"]
IN_FLIGHT = 64
NODE = "node-1"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of key."""

    name: str
    chain: str
    """Which of the site's certificates has it."""
    scheme: Scheme
    openssl: str
    """What `openssl speed` calls it."""


KINDS = (
    Kind("p256", "ecdsa", Scheme.ECDSA_SHA256, "ecdsap256"),
    Kind("rsa2048", "rsa", Scheme.RSA_PSS_SHA256, "rsa2048"),
)
BACKENDS: Mapping[str, TokenKind] = {"vault": "vault", "softhsm": "pkcs11"}


def node_rates(folder: Path, pairs: int, seconds: float, say: Callable[[str], None]) -> list[Row]:
    """Signatures per second: ours through a node, theirs without one."""
    rows = []
    for name, backend in BACKENDS.items():
        cluster = Cluster(ClusterSpec(folder / name, nodes=1, web_servers=0, backend=backend))
        cluster.prepare()
        cluster.start_node(NODE)
        try:
            pin(cluster.node_programs[NODE].pid, SERVER_CORE)
            rows += [_row(cluster, name, kind, pairs, seconds, say) for kind in KINDS]
        finally:
            cluster.node_programs[NODE].stop()
    return rows


def _row(cluster: Cluster, backend: str, kind: Kind, pairs: int, seconds: float, say: Callable[[str], None]) -> Row:
    cpu_us: list[float] = []
    raw, theirs = _raw(cluster, kind, seconds)
    row = compare(
        f"node-{backend}-{kind.name}",
        "signatures/s",
        lambda: _node_rate(cluster, kind, seconds, cpu_us),
        theirs,
        pairs,
        say=say,
    )
    note = f"{IN_FLIGHT} in flight on one link; CPU of each: node {statistics.median(cpu_us):,.0f} us, {raw}"
    return replace(row, note=note)


def _raw(cluster: Cluster, kind: Kind, seconds: float) -> tuple[str, Callable[[], float]]:
    """What the node's rate is compared with: the CPU that it costs there, in words, and how to measure the rate."""
    place = cluster.token
    openssl = f"openssl speed {1e6 / _openssl_rate(kind, seconds, 'cpu'):,.0f} us"
    if not isinstance(place, Pkcs11Place):
        return openssl, lambda: _openssl_rate(kind, seconds, "wall")
    program = compile_direct(cluster.spec.directory)
    direct = f"PKCS#11 calls in C {1e6 / _pkcs11_rate(program, place, kind, seconds, 'cpu'):,.0f} us"
    return f"{direct}, {openssl}", lambda: _pkcs11_rate(program, place, kind, seconds, "wall")


def _node_rate(cluster: Cluster, kind: Kind, seconds: float, cpu_us: list[float]) -> float:
    """Asks a node; what a signature cost it (and the worker of its token) goes to `cpu_us`."""
    pid = cluster.node_programs[NODE].pid
    identity = tomllib.loads(cluster.proxy_config.read_text())["signing"]
    files = [identity[name] for name in ("ca", "certificate", "private_key")]
    site = str(next(iter(cluster.chains.values()))[kind.chain])
    address = f"127.0.0.1:{cluster.nodes[NODE].port}"
    plan = [str(kind.scheme.value), str(seconds), str(IN_FLIGHT)]
    before = cpu_seconds(pid)
    command = [sys.executable, "-m", "bench.node_client", address, *files, site, *plan]
    result = json.loads(run_client(command, seconds + 30))
    if result["bad"] or not result["good"]:
        raise RuntimeError(f"{result['bad']} signatures failed, {result['good']} did not: {result['error']}")
    cpu_us.append((cpu_seconds(pid) - before) / result["asked"] * 1e6)
    return float(result["good"] / result["seconds"])


def _openssl_rate(kind: Kind, seconds: float, clock: Clock) -> float:
    """Signatures per second by `openssl speed`, which counts whole seconds."""
    options = ["-elapsed"] if clock == "wall" else []
    command = ["openssl", "speed", "-mr", *options, "-seconds", str(max(1, round(seconds))), kind.openssl]
    lines = _on_server_core(command).splitlines()
    # +F2:<number>:<bits>:<signatures per second>:<verifications per second> for RSA, +F4 for ECDSA.
    return float(next(line.split(":")[3] for line in lines if line.startswith(("+F2:", "+F4:"))))


def compile_direct(folder: Path) -> Path:
    """Builds the C program; returns it."""
    program = folder / "pkcs11_speed"
    source = Path(__file__).with_name("pkcs11_speed.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source), "-ldl"], check=True)
    return program


def _pkcs11_rate(program: Path, place: Pkcs11Place, kind: Kind, seconds: float, clock: Clock) -> float:
    """Signatures per second by direct calls of the token's library."""
    command = [str(program), str(place.module), place.label, str(place.pin_file), kind.name, str(seconds)]
    result = json.loads(_on_server_core(command, dict(place.environment)))
    return float(result["signatures"] / result["seconds" if clock == "wall" else "cpu_seconds"])


def _on_server_core(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Runs a program where the node runs, while the node is idle; returns its output."""
    done = subprocess.run(
        ["taskset", "-c", str(SERVER_CORE), *command],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
