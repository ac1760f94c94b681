"""`sealgate proxy node drain`, `disable` and `enable` under load: no handshake fails, and the node signs nothing then.

The proxy says whether it may lose another node, and refuses to give away the last one by mistake.
"""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable

import pytest

from proxy.demo.cluster import Cluster
from proxy.demo.processes import sealgate
from proxy.run.admin_client import AdminProblem, set_state, socket_of
from proxy.run.status import Status, fetch_status

NODE = "node-2"


class Clients:
    """Shake hands one after the other, each time with a full handshake, until they are stopped."""

    def __init__(self, cluster: Cluster, count: int = 3) -> None:
        self._context = ssl.create_default_context(cafile=str(cluster.ca))
        self._port = cluster.port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        self.good = 0
        self.failures: list[str] = []

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with (
                    socket.create_connection(("127.0.0.1", self._port), timeout=10) as plain,
                    self._context.wrap_socket(plain, server_hostname="localhost"),
                ):
                    self.good += 1
            except OSError as error:
                self.failures.append(str(error))


def test_a_node_comes_and_goes_by_command(cluster: Cluster, wait: Callable[..., None]) -> None:
    def look() -> Status:
        return fetch_status(cluster.control_url)

    def signed_by(name: str) -> int:
        return next(int(node["signatures"]) for node in look().nodes if node["name"] == name)

    def more(count: int) -> None:
        before = clients.good
        wait(lambda: clients.good > before + count, f"{count} more handshakes")

    wait(lambda: look().headroom["lonely_key_count"] == 0, "every key has two nodes")
    path = socket_of(None, None, cluster.control_url)
    try:
        with Clients(cluster) as clients:
            more(20)
            drain = sealgate("proxy", "node", "drain", NODE, "--config", str(cluster.proxy_config))
            done = subprocess.run(drain, capture_output=True, text=True, timeout=20, check=False)
            assert (done.returncode, done.stdout) == (0, f"{NODE}: draining (was enabled) at 2 workers\n"), done.stderr
            wait(lambda: look().nodes[1]["in_flight"] == 0, "what was under way is answered")
            before = signed_by(NODE)
            more(60)
            assert signed_by(NODE) == before
            shown = look()
            assert (shown.nodes[1]["admin"], shown.nodes[1]["asked_at_run_time"]) == ("draining", True)
            assert shown.ready
            answer = set_state(path, NODE, "disabled", force=False, wait_s=5)
            assert (answer["in_flight"], answer["not_told"]) == (0, [])
            more(60)
            assert signed_by(NODE) == before
            set_state(path, "node-1", "draining", force=False, wait_s=5)
            assert look().headroom["reasons"][0] == "node-3 is the only node in rotation"
            with pytest.raises(AdminProblem, match=r"no other node in rotation holds the key of .*--force"):
                set_state(path, "node-3", "draining", force=False, wait_s=5)
            for name in (NODE, "node-1"):
                set_state(path, name, "enabled", force=False, wait_s=0)
            wait(lambda: signed_by(NODE) > before, "the node signs again")
        assert clients.failures == []
        assert clients.good > 100
    finally:
        for name in cluster.nodes:
            set_state(path, name, "enabled", force=True, wait_s=0)
    wait(lambda: all(node["in_rotation"] for node in look().nodes), "all nodes are back")
