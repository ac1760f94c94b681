"""What the demo says when everything runs: where to look, what to try, and what holds the keys."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from proxy.demo.cluster import Cluster
from proxy.demo.configs import NodeSpot

_KEY_WORDS = {"ecdsa": "P-256", "rsa": "RSA-2048", "p384": "P-384"}


def welcome(cluster: Cluster, revive_after_s: float) -> str:
    """The text above the table. Its commands can be pasted as they stand."""
    node = next(iter(cluster.nodes.values()))
    ca = shlex.quote(str(cluster.ca))
    entries = [
        ("Open", [cluster.url, f"(its certificate comes from a CA of this demo's own: {cluster.ca})"]),
        ("Or", [f"curl --cacert {ca} {cluster.url}"]),
        ("Also", ["   ".join(_other_sites(cluster))]),
        ("Keys", [f"{cluster.spec.key_place}; all nodes use it. Look at them:", _command("key list", node)]),
        ("Metrics", [f"{cluster.control_url}/metrics   Status  {cluster.control_url}/status"]),
        ("Try", _to_try(cluster, node, revive_after_s)),
        ("Files", [str(cluster.spec.directory)]),
    ]
    lines = [
        f"  {name if number == 0 else '':<10}{line}"
        for name, texts in entries
        for number, line in enumerate(texts)
        if line
    ]
    return "\n".join(["", *lines, "", "  Ctrl-C stops everything.", ""])


def _other_sites(cluster: Cluster) -> list[str]:
    """The sites whose key is of one kind."""
    others = list(cluster.chains.items())[1:]
    return [
        f"{cluster.url_of(site)} ({', '.join(_KEY_WORDS.get(kind, kind) for kind in chains)})"
        for site, chains in others
    ]


def _to_try(cluster: Cluster, node: NodeSpot, revive_after_s: float) -> list[str]:
    pid = cluster.node_programs[node.name].pid
    lines = [f"kill -9 {pid}    ({node.name} dies, nobody notices; it is started again after {revive_after_s:g} s)"]
    if cluster.spec.backend == "pkcs11":
        lines.append(
            f"kill -9 $(pgrep -P {pid})    (only its process with the token's library dies; it starts another)"
        )
    if cluster.spec.backend == "simulated":
        lines.append(f"{_command('node fault set hang --duration 10', node)}")
        lines.append(f"(the HSM of {node.name} hangs for 10 s, nobody notices)")
    return lines


def _command(words: str, node: NodeSpot) -> str:
    return f"{command_of_this()} {words} --socket {shlex.quote(str(node.socket))}"


def command_of_this() -> str:
    """How this installation's `sealgate` is called from here."""
    if shutil.which("sealgate"):
        return "sealgate"
    beside = Path(sys.executable).with_name("sealgate")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m proxy"
    near = os.path.relpath(beside)
    return shlex.quote(near if not near.startswith("..") else str(beside))
