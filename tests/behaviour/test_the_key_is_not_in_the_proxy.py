"""The proxy's whole memory, read while it serves, holds no private key; the same search finds them where they are.

On a vault they are in the nodes. On a SoftHSM2 token not even these hold them: its library has a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certs.site_keys import VaultPlace
from proxy.demo.cluster import Cluster
from proxy.demo.processes import Program


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


def in_all_forms(numbers: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """Secret numbers, given with their sizes in bytes, as they may stand in memory."""
    found: dict[str, bytes] = {}
    for name, (number, size) in numbers.items():
        for form, data in forms_of(number, size).items():
            found[f"{name}, {form}"] = data
    return found


def secrets_of_vault(cluster: Cluster) -> dict[str, bytes]:
    """Every secret number of the vault, by opening the store as a node does; no interface gives them away."""
    from tests.support.vault_secrets import private_numbers_in

    assert isinstance(cluster.token, VaultPlace)
    return in_all_forms(private_numbers_in(cluster.token.store, cluster.token.key_file))


def secrets_of_keys(keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]) -> dict[str, bytes]:
    """The secret numbers of keys that this test made."""
    numbers: dict[str, tuple[int, int]] = {}
    for name, key in keys.items():
        if isinstance(key, ec.EllipticCurvePrivateKey):
            numbers[f"{name} scalar"] = (key.private_numbers().private_value, key.key_size // 8)
        else:
            private = key.private_numbers()
            numbers[f"{name} p"] = (private.p, key.key_size // 16)
            numbers[f"{name} q"] = (private.q, key.key_size // 16)
            numbers[f"{name} d"] = (private.d, key.key_size // 8)
    return in_all_forms(numbers)


def memory_of(pid: int) -> Iterator[bytes]:
    """Every readable mapping of a process but programs and libraries, which nobody can write to."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, mode, _offset, _device, _inode, *path = line.split(maxsplit=5)
            is_file = bool(path) and path[0].startswith("/")
            if not mode.startswith("r") or "[vvar" in line or "[vsyscall]" in line or (is_file and mode[1] != "w"):
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


@contextlib.contextmanager
def load_on(cluster: Cluster) -> Iterator[list[int]]:
    """Handshakes all the while; at the end the list holds the status of each request."""
    stop, statuses = threading.Event(), []

    def load() -> None:
        while not stop.is_set():
            context = ssl.create_default_context(cafile=str(cluster.ca))
            with urllib.request.urlopen(cluster.url, context=context, timeout=10) as answer:
                statuses.append(answer.status)

    client = threading.Thread(target=load)
    client.start()
    try:
        yield statuses
    finally:
        stop.set()
        client.join()


def family_of(program: Program) -> list[psutil.Process]:
    """A program and its children."""
    root = psutil.Process(program.pid)
    return [root, *root.children(recursive=True)]


only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of hardened processes")


@only_root
@pytest.mark.timeout(180)
def test_the_key_is_not_in_the_proxy(cluster: Cluster) -> None:
    secrets = secrets_of_vault(cluster)
    assert len(secrets) >= 12
    with load_on(cluster) as statuses:
        processes = family_of(cluster.proxy)
        assert len(processes) >= 3, "master, workers and control process"
        for process in processes:
            assert found_in(process.pid, secrets) == set(), f"process {process.pid} of the proxy holds secrets"
        seen = found_in(next(iter(cluster.node_programs.values())).pid, secrets)
    assert set(statuses) == {200}
    for name in {secret.rpartition(",")[0] for secret in secrets}:
        assert any(found.startswith(name) for found in seen), f"the search does not even find {name} in a node"


@only_root
@pytest.mark.timeout(180)
def test_keys_of_a_token_are_neither_in_the_proxy_nor_in_its_nodes(
    pkcs11_cluster: Cluster, known_keys: dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]
) -> None:
    secrets = secrets_of_keys(known_keys)
    pin = (pkcs11_cluster.spec.directory / "pki" / "softhsm" / "pin").read_bytes().strip()
    with load_on(pkcs11_cluster) as statuses:
        processes = family_of(pkcs11_cluster.proxy)
        for process in processes:
            assert found_in(process.pid, {**secrets, "PIN": pin}) == set(), f"{process} of the proxy holds secrets"
        for program in pkcs11_cluster.node_programs.values():
            assert found_in(program.pid, secrets) == set(), f"{program.name} holds secrets, not only its token worker"
    assert set(statuses) == {200}
    seen = found_in(os.getpid(), secrets)
    for name in {secret.rpartition(",")[0] for secret in secrets}:
        assert any(found.startswith(name) for found in seen), f"the search does not even find {name} here"
