"""Real programs for the tests of this folder: a whole cluster, started once or, where a test breaks it, afresh."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certs.folder import make_private
from certs.softhsm_keys import softhsm_keys
from hsm.backends.attributes import KeyAttributes
from proxy.demo.cluster import DEMO_SITES, Cluster, ClusterSpec
from proxy.demo.processes import Program, free_port, listens


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    """Waits for a condition; its absence at the deadline fails the test and says what was missing."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"still not true after {timeout_s:g} s: {what}")
        time.sleep(0.02)


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    """`wait(condition, what, timeout_s=15)`."""
    return wait_for


@contextlib.contextmanager
def started(spec: ClusterSpec) -> Iterator[Cluster]:
    """A running cluster."""
    cluster = Cluster(spec)
    cluster.prepare()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes on a vault, two web servers, two workers. Tests must leave it as they found it."""
    with started(ClusterSpec(tmp_path_factory.mktemp("cluster"), sites=DEMO_SITES)) as running:
        yield running


@pytest.fixture(scope="session")
def pkcs11_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `pkcs11_cluster` is."""
    return tmp_path_factory.mktemp("pkcs11")


@pytest.fixture(scope="session")
def known_keys(pkcs11_folder: Path) -> dict[str, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey]:
    """Keys of "localhost" that were made here and imported into the token, so that a test can look for their bytes."""
    keys = {
        "localhost-ecdsa": ec.generate_private_key(ec.SECP256R1()),
        "localhost-rsa": rsa.generate_private_key(65537, 2048),
    }
    make_private(pkcs11_folder / "pki")
    with softhsm_keys(pkcs11_folder / "pki") as token:
        for label, key in keys.items():
            pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            token.admin.import_pem(pem, None, label, KeyAttributes())
    return keys


@pytest.fixture(scope="session")
def pkcs11_cluster(pkcs11_folder: Path, known_keys: object) -> Iterator[Cluster]:
    """The same on SoftHSM2. Its nodes look for keys that others made twice a second, because a test waits for that."""
    spec = ClusterSpec(pkcs11_folder, sites=DEMO_SITES, backend="pkcs11", token_config="rescan_interval_s = 0.5\n")
    with started(spec) as running:
        yield running


@pytest.fixture(scope="session", params=["vault", "pkcs11"])
def each_cluster(request: pytest.FixtureRequest) -> Cluster:
    """`cluster` and `pkcs11_cluster`, one after the other."""
    running: Cluster = request.getfixturevalue("cluster" if request.param == "vault" else "pkcs11_cluster")
    return running


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters for one test alone: `own_cluster(nodes=2, workers=1)`."""
    with contextlib.ExitStack() as stack:
        count = 0

        def make(**options: object) -> Cluster:
            nonlocal count
            count += 1
            return stack.enter_context(started(ClusterSpec(tmp_path / f"cluster-{count}", **options)))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def slow_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Makes clusters of one node behind a relay that delays every signature: `slow_cluster(delay_ms=300)`."""
    with contextlib.ExitStack() as stack:

        def make(delay_ms: float, **options: object) -> Cluster:
            patience = "connect_timeout_s = 20\nprobe_timeout_s = 10\nattempt_timeout_s = 10\njob_timeout_s = 10"
            spec = ClusterSpec(tmp_path / "slow", nodes=1, signing_config=patience, **options)  # type: ignore[arg-type]
            cluster = Cluster(spec)
            cluster.prepare()
            node, port = cluster.nodes["node-1"], free_port()
            relay = Program(
                "relay",
                [sys.executable, "-m", "bench.delay", str(port), str(node.port), str(delay_ms)],
                tmp_path / "relay.log",
            )
            relay.start()
            stack.callback(relay.stop)
            relay.wait_until(listens("127.0.0.1", port), 10)
            text = cluster.proxy_config.read_text()
            cluster.proxy_config.write_text(text.replace(f'"127.0.0.1:{node.port}"', f'"127.0.0.1:{port}"'))
            cluster.start()
            stack.callback(cluster.stop)
            return cluster

        yield make
