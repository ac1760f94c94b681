"""Three simulated HSMs behind a real proxy: each fault of one, switched on by command, costs no handshake.

Whether the fault really was met is counted by the faulty device itself: no test passes because nothing happened.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hsm.cli.management_client import call
from hsm.wire.schemes import KeyType
from proxy.demo.cluster import Cluster, ClusterSpec
from proxy.demo.processes import sealgate
from tests.behaviour.conftest import started

CLIENTS = 3
TOKEN = "latency_ms = 2\nlatency_p99_ms = 4\nrate = 500\nconcurrency = 8\nseed = 1\n"
SIGNING = 'attempt_timeout_s = 0.5\njob_timeout_s = 4\nprobe_interval_s = 0.2\nverify_signatures = "always"\n'


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    spec = ClusterSpec(
        tmp_path_factory.mktemp("simulated"),
        workers=1,
        backend="simulated",
        key_types=(KeyType.P256,),
        token_config=TOKEN,
        signing_config=SIGNING,
    )
    with started(spec) as cluster:
        yield cluster


@dataclass
class Load:
    """What became of handshakes that a few clients make all the while; each is a full one."""

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


class Device:
    """One node's simulated HSM."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._socket = cluster.nodes[node].socket

    def set(self, *arguments: str) -> None:
        """`sealgate node fault set ...`."""
        command = sealgate("node", "fault", "set", *arguments, "--socket", str(self._socket))
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr

    def clear(self) -> None:
        """All faults."""
        (token,) = call(self._socket, "GET", "/faults")["tokens"]
        call(self._socket, "DELETE", f"/tokens/{token}/faults")

    def token(self) -> dict[str, Any]:
        """What the node's status says of it."""
        (token,) = call(self._socket, "GET", "/status")["tokens"]
        assert (token["kind"], token["details"]["warning"][:19]) == ("simulated", "this is not an HSM:")
        found: dict[str, Any] = token
        return found

    def keys(self) -> int:
        """Keys it signs with."""
        return int(self.token()["keys"])

    def details(self) -> dict[str, Any]:
        """What the device itself says."""
        details: dict[str, Any] = self.token()["details"]
        return details

    def ended(self, verdict: str) -> int:
        """Requests that ended so."""
        return int(self.details()["ended"].get(verdict, 0))

    def signs(self, wait: Callable[..., None]) -> None:
        """Waits until it makes good signatures."""
        begun = self.ended("good")
        wait(lambda: self.ended("good") > begun + 5, "node-1 signs", timeout_s=30)


FAULTS = {
    "slow": (["slow", "--factor", "100"], "in_device"),
    "hang": (["hang"], "in_device"),
    "error": (["error"], "failed"),
    "half of them errors": (["error", "--rate", "0.5"], "failed"),
    "wrong signature": (["wrong-signature"], "wrong"),
    "lost key": (["lost-key", "--key", "localhost-*"], "keys"),
    "crash": (["crash", "--duration", "2"], "down"),
}
"""What is switched on, and what then shows that the device met it."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_one_of_three_fails_no_handshake(simulated: Cluster, wait: Callable[..., None], name: str) -> None:
    arguments, sign = FAULTS[name]
    device = Device(simulated, "node-1")
    device.clear()
    with load_on(simulated) as load:
        device.signs(wait)
        before = device.ended(sign)
        device.set(*arguments)
        if sign == "in_device":
            wait(lambda: device.details()["in_device"] > 0, f"node-1 is busy with requests: {name}")
        elif sign == "keys":
            wait(lambda: device.keys() == 0, "node-1 has lost its key")
        else:
            wait(lambda: device.ended(sign) > before, f"node-1 meets the fault: {name}")
        since = load.good
        wait(lambda: load.good > since + 30, "handshakes go on during the fault", timeout_s=30)
        device.clear()
        device.signs(wait)
    assert load.failed == []


def test_a_wrong_signature_is_refused_by_the_proxy_and_not_by_its_client(simulated: Cluster) -> None:
    """The clients of the test above would have noticed; here the proxy says that it did."""
    with urllib.request.urlopen(simulated.control_url + "/metrics", timeout=5) as answer:
        text = answer.read().decode()
    wrong = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if "wrong" in line and 'node="node-1"' in line and not line.startswith("#")
    ]
    assert sum(wrong) >= 1, "no metric counts wrong signatures of node-1"


def test_all_hang_and_the_failure_is_clear_and_ends(simulated: Cluster, wait: Callable[..., None]) -> None:
    devices = [Device(simulated, name) for name in simulated.nodes]
    for device in devices:
        device.set("hang")
    context = ssl.create_default_context(cafile=str(simulated.ca))
    with pytest.raises(OSError, match=r"(?i)ssl|alert|closed|reset"):
        urllib.request.urlopen(simulated.url, context=context, timeout=30)
    for device in devices:
        device.clear()

    def is_served() -> bool:
        try:
            with urllib.request.urlopen(simulated.url, context=context, timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    wait(is_served, "the site is served again", timeout_s=20)


def test_the_node_says_in_its_log_what_it_is_and_what_was_switched(simulated: Cluster) -> None:
    log = Path(simulated.spec.directory / "node-1.log").read_text()
    assert "not_an_hsm" in log
    assert "simulated_fault_set" in log
