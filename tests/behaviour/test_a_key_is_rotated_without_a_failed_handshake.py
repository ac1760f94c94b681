"""A site's key is rotated as docs/keys.md says: no handshake fails, and the old key retires by itself, not too soon.

The proxies stand side by side, as they do when one takes over from the other: clients move, then the first one stops.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hsm.cli.management_client import call, key_path
from hsm.shared.mtls import Identity
from hsm.wire.schemes import KeyType
from proxy.demo.cluster import Cluster
from proxy.demo.configs import ProxyPlan, proxy_toml
from proxy.demo.processes import Program, answers, free_port, sealgate

QUIET_S = 15
TOLD_S = 10
"""Nodes tell so often what they signed, and look as often at what is due."""
BUSY, QUIET = "localhost-ecdsa", "quiet.localhost-ecdsa"


def said(*arguments: str) -> str:
    """Output of a `sealgate` command that succeeds."""
    done = subprocess.run(sealgate(*arguments), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Clients:
    """Shake hands with whichever proxy they are sent to, one after the other, and verify the certificate."""

    def __init__(self, ca: Path, port: int) -> None:
        self.port = port
        self.served: list[bytes] = []
        """The certificates they got, DER."""
        self.failures: list[str] = []
        self._context = ssl.create_default_context(cafile=ca)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._done.wait(0.02):
            try:
                with (
                    socket.create_connection(("127.0.0.1", self.port), timeout=10) as wire,
                    self._context.wrap_socket(wire, server_hostname="localhost") as connection,
                ):
                    self.served.append(connection.getpeercert(binary_form=True) or b"")
            except OSError as error:
                self.failures.append(repr(error))


class Owner:
    """Whoever has the keys, at one node."""

    def __init__(self, cluster: Cluster) -> None:
        self.config = str(cluster.nodes["node-1"].config)
        self.socket = cluster.nodes["node-1"].socket
        self.pki = cluster.spec.directory / "pki"

    def key(self, label: str) -> dict[str, Any]:
        found: dict[str, Any] = call(self.socket, "GET", key_path(label))["key"]
        return found

    def rotated(self, label: str, name: str) -> Path:
        """Rotates a key and has its successor certified; the chain."""
        csr, chain = self.pki / f"{label}.csr", self.pki / f"{label}-2.pem"
        arguments = ("--name", name, "--quiet", f"{QUIET_S}s", "--out", str(csr))
        said("key", "rotate", label, *arguments, "--config", self.config)
        said("certs", "sign", "--dir", str(self.pki), "--csr", str(csr), "--out", str(chain))
        return chain


def second_proxy(cluster: Cluster, chains: dict[str, Path]) -> tuple[Program, int, str]:
    """Another proxy of the same nodes: the program, its port and its control address."""
    pki, port, control = cluster.spec.directory / "pki", free_port(), free_port()
    plan = ProxyPlan(
        port=port,
        control_port=control,
        workers=1,
        chains={site: {"ecdsa": chain} for site, chain in chains.items()},
        nodes=list(cluster.nodes.values()),
        web_ports=cluster.web_ports,
        identity=Identity(pki / "ca.pem", pki / "proxy.pem", pki / "proxy.key"),
        more="",
        more_upstream="",
        more_signing="",
    )
    config = cluster.spec.directory / "proxy-2.toml"
    config.write_text(proxy_toml(plan))
    program = Program("proxy-2", sealgate("proxy", "run", "--config", str(config)), config.with_suffix(".log"))
    return program, port, f"http://127.0.0.1:{control}"


def leaf(chain: Path) -> bytes:
    """The first certificate of a chain, DER."""
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(chain.read_text().partition(end)[0] + end)


def test_a_key_is_rotated_without_a_failed_handshake(
    own_cluster: Callable[..., Cluster], wait: Callable[..., None]
) -> None:
    cluster = own_cluster(nodes=2, workers=1, sites=("localhost", "quiet.localhost"), key_types=(KeyType.P256,))
    owner, clients = Owner(cluster), Clients(cluster.ca, cluster.port)
    old_chains = {site: chains["ecdsa"] for site, chains in cluster.chains.items()}
    with contextlib.ExitStack() as stack:
        clients.start()
        stack.callback(clients.stop)
        wait(lambda: leaf(old_chains["localhost"]) in clients.served, "a handshake with the old key")
        new_chain, quiet_chain = owner.rotated(BUSY, "localhost"), owner.rotated(QUIET, "new.localhost")
        # The second proxy has only the new certificate of the busy site. Of the quiet one it has both, and no visitors.
        chains = {**old_chains, "localhost": new_chain, "new.localhost": quiet_chain}
        program, port, control = second_proxy(cluster, chains)
        program.start()
        stack.callback(program.stop, 15)
        program.wait_until(answers(control + "/readyz"), 30)
        clients.port = port
        wait(lambda: clients.served[-1] == leaf(new_chain), "a handshake with the new key")
        cluster.proxy.stop(15)
        stopped = time.monotonic()
        wait_for_state(owner, BUSY, "retired", QUIET_S + 3 * TOLD_S)
        assert time.monotonic() - stopped > QUIET_S - 5, "not while a proxy could still have had its certificate"
        handshakes = len(clients.served)
        wait(lambda: len(clients.served) > handshakes + 10, "handshakes without the old key")
        clients.stop()
        assert clients.failures == []
        assert clients.served[-1] == leaf(new_chain)
        check_what_owners_see(owner)


def wait_for_state(owner: Owner, label: str, state: str, timeout_s: float) -> None:
    """Looks at a key twice a second."""
    deadline = time.monotonic() + timeout_s
    while (found := owner.key(label))["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


def check_what_owners_see(owner: Owner) -> None:
    busy, successor = owner.key(BUSY), owner.key(f"{BUSY}-2")
    assert (busy["successor"], busy["quiet_s"]) == (successor["ski"], None)
    assert successor["state"] == "active"
    assert successor["signatures"] > 0
    quiet = owner.key(QUIET)
    assert owner.key(f"{QUIET}-2")["signatures"] > 0, "probed by the proxy that has its certificate"
    assert quiet["state"] == "active", "nobody visits it, but a proxy has its certificate and asks for signatures"
    age = datetime.now(UTC) - datetime.fromisoformat(quiet["last_used"])
    assert age.total_seconds() < QUIET_S + TOLD_S
    table = said("key", "list", "--config", owner.config)
    for line in (f"retires once {QUIET}-2 has taken over", f"replaced by {BUSY}-2"):
        assert line in table
