"""What the demo says when everything runs: where to look, what to try, and what holds the keys."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from proxy.demo.cluster import Cluster
from proxy.demo.configs import TokenKind

_HELD: dict[TokenKind, str] = {
    "vault": "in the software vault",
    "pkcs11": "in a SoftHSM2 token (PKCS#11), as a software HSM",
    "simulated": "in a vault that is as slow as an HSM, profile {}",
}


def welcome(cluster: Cluster, revive_after_s: float) -> str:
    """The text above the table. Its commands can be pasted as they stand."""
    victim = next(iter(cluster.node_programs.values()))
    socket = cluster.nodes[victim.name].socket
    ca = shlex.quote(str(cluster.ca))
    sites = "  ".join(cluster.url_of(site) for site in list(cluster.chains)[1:])
    return (
        f"\n  Open      {cluster.url}\n"
        f"            (its certificate comes from a CA of this demo's own: {cluster.ca})\n"
        f"  Or        curl --cacert {ca} {cluster.url}\n"
        + (f"  Also      {sites}\n" if sites else "")
        + f"  Keys      {_HELD[cluster.spec.backend].format(cluster.spec.profile)}; all nodes use it. Look at them:\n"
        f"            {command_of_this()} key list --socket {shlex.quote(str(socket))}\n"
        f"  Metrics   {cluster.control_url}/metrics   Status  {cluster.control_url}/status\n"
        f"  Try       kill -9 {victim.pid}    ({victim.name} dies, nobody notices; it is started again after"
        f" {revive_after_s:g} s)\n"
        f"  Files     {cluster.spec.directory}\n\n"
        "  Ctrl-C stops everything.\n"
    )


def command_of_this() -> str:
    """How this installation's `sealgate` is called from here."""
    if shutil.which("sealgate"):
        return "sealgate"
    beside = Path(sys.executable).with_name("sealgate")
    if not beside.exists():
        return f"{shlex.quote(sys.executable)} -m proxy"
    near = os.path.relpath(beside)
    return shlex.quote(near if not near.startswith("..") else str(beside))
