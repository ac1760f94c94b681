"""The proxy's whole memory, read while it serves, holds no private key; the same search finds the keys in a node."""

from __future__ import annotations

import os
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from proxy.demo.cluster import Cluster


def forms_of(number: int, size: int) -> dict[str, bytes]:
    """How a number may stand in memory: DER (big-endian), OpenSSL's limbs (little-endian), Python's 30-bit digits."""
    digits = []
    rest = number
    while rest:
        digits.append((rest & (2**30 - 1)).to_bytes(4, "little"))
        rest >>= 30
    return {
        "big-endian": number.to_bytes(size, "big"),
        "little-endian": number.to_bytes(size, "little"),
        "python": b"".join(digits),
    }


def secrets_of(cluster: Cluster) -> dict[str, bytes]:
    """Every secret number of the vault, by opening the store as a node does; no interface gives them away."""
    from tests.support.vault_secrets import private_numbers_in

    found: dict[str, bytes] = {}
    for name, (number, size) in private_numbers_in(cluster.store, cluster.key_file).items():
        for form, data in forms_of(number, size).items():
            found[f"{name}, {form}"] = data
    return found


def memory_of(pid: int) -> Iterator[bytes]:
    """Every readable mapping of a process."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, mode, *_rest = line.split()
            if not mode.startswith("r") or "[vvar" in line or "[vsyscall]" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                yield memory.read(end - start)
            except (OSError, ValueError, OverflowError):
                continue  # device mappings can't be read by anybody


def found_in(pid: int, secrets: dict[str, bytes]) -> set[str]:
    """Which of the secrets stand in a process's memory."""
    found: set[str] = set()
    total = 0
    for block in memory_of(pid):
        total += len(block)
        found |= {name for name, data in secrets.items() if data in block}
    assert total > 10 * 2**20, "the search read next to nothing, so it proves nothing"
    return found


@pytest.mark.timeout(180)
def test_the_key_is_not_in_the_proxy(cluster: Cluster) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may read the memory of hardened processes")
    secrets = secrets_of(cluster)
    assert len(secrets) >= 12
    stop = threading.Event()
    served = 0

    def load() -> None:
        nonlocal served
        while not stop.is_set():
            context = ssl.create_default_context(cafile=str(cluster.ca))
            with urllib.request.urlopen(cluster.url, context=context, timeout=10) as answer:
                served += answer.status == 200

    client = threading.Thread(target=load)
    client.start()
    try:
        root = psutil.Process(cluster.proxy.pid)
        processes = [root, *root.children(recursive=True)]
        assert len(processes) >= 3, "master, workers and control process"
        for process in processes:
            assert found_in(process.pid, secrets) == set(), f"process {process.pid} of the proxy holds secrets"
        node = next(iter(cluster.node_programs.values()))
        seen = found_in(node.pid, secrets)
    finally:
        stop.set()
        client.join()
    assert served > 0
    for name in {secret.rpartition(",")[0] for secret in secrets}:
        assert any(found.startswith(name) for found in seen), f"the search does not even find {name} in a node"
