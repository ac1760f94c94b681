"""A proxy that is told no node but a name in the DNS: nodes come and go there, and no client feels it.

The name server is dnsmasq: fixed SRV records name three hosts, and a file says which of them have an address.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import shutil
import signal
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hsm.wire.schemes import KeyType
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import Program, free_port, listens

CLIENTS = 2
RECORD = "_keyless._tcp.hsm.test"


def metrics_at(url: str) -> dict[str, float]:
    """Every line of a metrics page: name with labels -> value."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


class Names:
    """dnsmasq, which knows the hosts of a file."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        dnsmasq = shutil.which("dnsmasq", path="/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        assert dnsmasq, "dnsmasq is not installed"
        self.port = free_port()
        self._hosts = folder / "hosts"
        services = [f"--srv-host={RECORD},{node}.hsm.test,{port},0,10" for node, port in ports.items()]
        self.program = Program(
            "dnsmasq",
            [
                dnsmasq,
                *("--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="),
                *(f"--user={getpass.getuser()}", "--bind-interfaces", "--listen-address=127.0.0.1"),
                *(f"--port={self.port}", "--local=/test/", "--local-ttl=1", f"--addn-hosts={self._hosts}"),
                *services,
            ],
            folder / "dnsmasq.log",
        )

    def say(self, *nodes: str) -> None:
        """Only these have an address from now on."""
        self._hosts.write_text("".join(f"127.0.0.1 {node}.hsm.test\n" for node in nodes))
        self.program.signal(signal.SIGHUP)


@dataclass
class Load:
    """What became of full handshakes that a few clients make all the while."""

    good: int = 0
    failed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def load_on(cluster: Cluster) -> Iterator[Load]:
    load, stop = Load(), threading.Event()

    def client() -> None:
        while not stop.is_set():
            context = ssl.create_default_context(cafile=str(cluster.ca))
            try:
                with urllib.request.urlopen(cluster.url, context=context, timeout=10) as answer:
                    answer.read()
                load.good += 1
            except OSError as error:
                load.failed.append(str(error))

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in clients:
            thread.join()


@pytest.fixture
def discovered(tmp_path: Path) -> Iterator[tuple[Cluster, Names]]:
    """A running cluster of three nodes, of which the DNS names two."""
    spec = ClusterSpec(tmp_path / "cluster", workers=1, web_servers=1, key_types=(KeyType.P256,))
    cluster = Cluster(spec)
    cluster.prepare()
    names = Names(tmp_path, {node: spot.port for node, spot in cluster.nodes.items()})
    listed = re.compile(r"^\[\[nodes\]\]\n(?:\w.*\n)+", re.MULTILINE)
    discovery = (
        f'[[discovery]]\nname = "dns"\nkind = "srv"\nrecord = "{RECORD}"\nserver_name = "localhost"\n'
        f'interval_s = 1\ntimeout_s = 0.5\nnameservers = ["127.0.0.1:{names.port}"]\n'
    )
    text, count = listed.subn("", cluster.proxy_config.read_text())
    assert count == 3
    cluster.proxy_config.write_text(text + discovery)
    names.say("node-1", "node-2")
    names.program.start()
    try:
        names.program.wait_until(listens("127.0.0.1", names.port), 10)
        cluster.start()
        yield cluster, names
    finally:
        cluster.stop()
        names.program.stop()


def test_nodes_come_and_go_by_dns(discovered: tuple[Cluster, Names], wait: Callable[..., None]) -> None:
    cluster, names = discovered

    def seen(node: str) -> str:
        return f"dns-127.0.0.1-{cluster.nodes[node].port}"

    def signatures_of(node: str) -> float:
        name = f'sealgate_node_attempts_total{{node="{seen(node)}",outcome="ok"}}'
        return metrics_at(cluster.control_url).get(name, 0.0)

    def links_at(node: str) -> float:
        return metrics_at(cluster.nodes[node].ops_url)["sealgate_node_connections"]

    def failed_lookups() -> float:
        found = metrics_at(cluster.control_url)
        return sum(value for name, value in found.items() if "_lookups_total" in name and '"ok"' not in name)

    with load_on(cluster) as load:
        wait(lambda: signatures_of("node-1") > 0 and signatures_of("node-2") > 0, "both nodes of the DNS sign")
        assert signatures_of("node-3") == 0
        assert links_at("node-1") == 1

        names.say("node-2", "node-3")
        wait(lambda: signatures_of("node-3") > 0, "the node that came signs")
        wait(lambda: links_at("node-1") == 0, "the link to the node that went is closed")
        known = 'sealgate_discovery_nodes{source="dns"}'
        wait(lambda: metrics_at(cluster.control_url)[known] == 2, "the metrics say so too")

        names.program.stop()
        wait(lambda: failed_lookups() > 0, "the name server is missed")
        since = load.good
        wait(lambda: load.good > since + 20, "handshakes go on without a name server")
        assert links_at("node-2") == links_at("node-3") == 1
    assert load.failed == []
