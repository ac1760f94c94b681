"""However a node ends, the process that runs its token's library ends with it, and a new node has a new one."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

import psutil
import pytest

from proxy.demo.cluster import Cluster
from tests.support.token_workers import token_workers_of


def kill(cluster: Cluster, node: str) -> None:
    cluster.node_programs[node].kill()


def stop(cluster: Cluster, node: str) -> None:
    assert cluster.node_programs[node].stop() == 0


def proxy_says_up(cluster: Cluster, node: str) -> bool:
    with urllib.request.urlopen(cluster.control_url + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("sealgate_node_up") and f'node="{node}"' in line]
    return bool(found) and all(float(line.split()[-1]) == 1 for line in found)


@pytest.mark.parametrize("end", [kill, stop])
def test_no_token_worker_survives_its_node(
    pkcs11_cluster: Cluster, end: Callable[[Cluster, str], None], wait: Callable[..., None]
) -> None:
    node = "node-3"
    workers = token_workers_of(pkcs11_cluster.node_programs[node].pid)
    assert workers, "a node on a PKCS#11 token has a worker"
    try:
        end(pkcs11_cluster, node)
        wait(lambda: not any(map(is_alive, workers)), "the token workers of the node are gone")
    finally:
        pkcs11_cluster.start_node(node)
    again = token_workers_of(pkcs11_cluster.node_programs[node].pid)
    assert again
    assert not set(again) & set(workers)
    wait(lambda: proxy_says_up(pkcs11_cluster, node), "the proxy uses the node again")


def is_alive(process: psutil.Process) -> bool:
    """Zombies are dead: whoever is their parent now is slow to notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_no_pin_is_on_a_command_line_or_in_an_environment(pkcs11_cluster: Cluster) -> None:
    pin = (pkcs11_cluster.spec.directory / "pki" / "softhsm" / "pin").read_text().strip()
    seen = 0
    for program in pkcs11_cluster.programs:
        root = psutil.Process(program.pid)
        for process in (root, *root.children(recursive=True)):
            seen += 1
            try:
                words = json.dumps([process.cmdline(), process.environ()])
            except psutil.AccessDenied:
                words = json.dumps(process.cmdline())
            assert pin not in words, process
    assert seen > 8
