"""Two nodes on one SoftHSM2 token, one of them through a module that fails as HSMs fail, under the proxy's traffic.

No fault costs a handshake, and the node signs again when the fault is over: the same process, restarted by nobody.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from certs.site_keys import Pkcs11Place
from hsm.wire.schemes import KeyType
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.scrape import samples_of
from tests.support.pkcs11_shim import EVER, Shim, build_shim

CLIENTS = 3
FAULTY, HEALTHY = "node-1", "node-2"
TOKEN = "concurrency = 4\ncall_timeout_s = 1.0\nretry_min_s = 0.1\nretry_max_s = 0.5\nrescan_interval_s = 0.5\n"
SIGNING = 'attempt_timeout_s = 0.5\nverify_signatures = "always"\n'
PROXY = "[tls]\ntickets = false\n"


@dataclass
class Broken:
    """The cluster, and what makes one of its HSMs fail."""

    cluster: Cluster
    shim: Shim

    def pid(self) -> int:
        """The faulty node's process."""
        pid = self.cluster.node_programs[FAULTY].pid
        assert pid is not None
        return pid

    def signed(self) -> float:
        """Signatures that the faulty node made so far, by its own count."""
        samples = samples_of(self.cluster.nodes[FAULTY].ops_url)
        return sum(
            value
            for name, labels, value in samples
            if name == "sealgate_node_signatures_total" and labels["outcome"] == "signed"
        )

    def is_up(self) -> bool:
        """Whether the faulty node says that its token can sign."""
        samples = samples_of(self.cluster.nodes[FAULTY].ops_url)
        return any(name == "sealgate_node_token_up" and value == 1 for name, _labels, value in samples)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken")
    spec = ClusterSpec(
        folder,
        nodes=2,
        web_servers=1,
        workers=1,
        backend="pkcs11",
        key_types=(KeyType.P256,),
        proxy_config=PROXY,
        token_config=TOKEN,
        signing_config=SIGNING,
    )
    cluster = Cluster(spec)
    cluster.prepare()
    place = cluster.token
    assert isinstance(place, Pkcs11Place)
    shim = Shim(folder, str(place.module), dict(place.environment), build_shim(folder))
    put_in_between(cluster.nodes[FAULTY].config, place, shim)
    cluster.start()
    try:
        yield Broken(cluster, shim)
    finally:
        cluster.stop()
        shim.close()


def put_in_between(config: Path, place: Pkcs11Place, shim: Shim) -> None:
    """Has a node load the shim in place of the module."""
    lines = config.read_text().splitlines()
    variables = ", ".join(f'{name} = "{value}"' for name, value in shim.environment.items())
    changed = {"module": f'module = "{shim.module}"', "environment": f"environment = {{ {variables} }}"}
    replaced = [changed.get(line.split(" = ")[0], line) for line in lines]
    assert sum(old != new for old, new in zip(lines, replaced, strict=True)) == 2
    config.write_text("\n".join(replaced) + "\n")


@dataclass
class Load:
    """What became of the handshakes that a few clients make all the while; each is a full one."""

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


def ever(name: str) -> Callable[[Shim], None]:
    """A fault that lasts until it is cleared."""
    return lambda shim: shim.__setitem__(name, EVER)


FAULTS: dict[str, Callable[[Shim], None]] = {
    "a few device errors": lambda shim: shim.__setitem__("device_error", 5),
    "device errors": ever("device_error"),
    "sessions that are invalid for ever": Shim.lose_sessions,
    "a logout": Shim.log_out,
    "latency": lambda shim: shim.__setitem__("latency_ms", 200),
    "a hang": lambda shim: shim.__setitem__("hang", 1),
    "a crash": lambda shim: shim.__setitem__("segfaults", 1),
    "crashes": ever("segfaults"),
    "too much to do": ever("busy"),
    "no token": lambda shim: shim.__setitem__("token_gone", 1),
    "wrong signatures": ever("wrong_signature"),
}
IS_SEEN_IN_SIGNATURES = {"latency"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_hsm_costs_no_handshake_and_heals(broken: Broken, wait: Callable[..., None], name: str) -> None:
    shim, pid = broken.shim, broken.pid()
    with load_on(broken.cluster) as load:
        begun = broken.signed()
        wait(lambda: broken.signed() > begun + 10, f"{FAULTY} signs before the fault")
        made, signs = shim["faults_made"], shim["signs"]
        FAULTS[name](shim)
        if name in IS_SEEN_IN_SIGNATURES:
            wait(lambda: shim["signs"] > signs, f"{FAULTY} meets the fault")
        elif name == "no token":
            wait(lambda: not broken.is_up(), f"{FAULTY} meets the fault")
        else:
            wait(lambda: shim["faults_made"] > made, f"{FAULTY} meets the fault")
        since = load.good
        wait(lambda: load.good > since + 60, "handshakes go on during the fault", timeout_s=30)
        shim.clear()
        begun = broken.signed()
        wait(lambda: broken.signed() > begun + 20, f"{FAULTY} signs again", timeout_s=30)
    assert load.failed == []
    assert broken.pid() == pid
    assert broken.cluster.node_programs[FAULTY].is_running


def test_the_proxy_had_both_nodes_all_the_while(broken: Broken) -> None:
    """Otherwise the tests above prove little."""
    signed = {
        labels["node"]: value
        for name, labels, value in samples_of(broken.cluster.control_url)
        if name == "sealgate_node_attempts_total" and labels["outcome"] == "ok"
    }
    assert signed[FAULTY] > 100
    assert signed[HEALTHY] > 100
