"""2,000 clients disconnect in the middle of their signature: no connection, job or memory stays, and all goes on."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import urllib.request
from collections.abc import Callable

import psutil
import pytest

from proxy.demo.cluster import Cluster
from proxy.demo.scrape import samples_of

CLIENTS, AT_ONCE = 2_000, 200
DELAY_MS = 1000.0
CONTEXT = ssl.create_default_context()
GROWTH_LIMIT = 16 * 2**20
"""What the second thousand may cost, all workers together; connections that leak whole would cost 60 MiB."""


def client_hello() -> bytes:
    """A real ClientHello of a fresh handshake."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = CONTEXT.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def metric(cluster: Cluster, wanted: str) -> float:
    return sum(value for name, _, value in samples_of(cluster.control_url) if name == wanted)


def vanish(cluster: Cluster, wait: Callable[..., None], count: int) -> None:
    """Connects, says hello, and resets the connections once the proxy waits for all their signatures."""
    for _ in range(count // AT_ONCE):
        hellos = [client_hello() for _ in range(AT_ONCE)]
        sockets = [socket.create_connection(("127.0.0.1", cluster.port), timeout=10) for _ in range(AT_ONCE)]
        for client, hello in zip(sockets, hellos, strict=True):
            client.sendall(hello)
        wait(
            lambda: metric(cluster, "sealgate_signing_jobs_in_flight") >= AT_ONCE,
            "every client of the batch waits for its signature",
        )
        for client in sockets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as a crash would
            client.close()


def is_clean(cluster: Cluster) -> bool:
    """Nothing is open and nothing waits."""
    return all(
        metric(cluster, name) == 0
        for name in ("sealgate_connections_open", "sealgate_tls_sessions_active", "sealgate_signing_jobs_in_flight")
    )


def resident(cluster: Cluster) -> int:
    root = psutil.Process(cluster.proxy.pid)
    return sum(process.memory_info().rss for process in [root, *root.children(recursive=True)])


@pytest.mark.timeout(180)
def test_clients_that_vanish_leave_nothing(slow_cluster: Callable[..., Cluster], wait: Callable[..., None]) -> None:
    cluster = slow_cluster(delay_ms=DELAY_MS)
    vanish(cluster, wait, CLIENTS // 2)
    wait(lambda: is_clean(cluster), "the first thousand are gone")
    before = resident(cluster)
    vanish(cluster, wait, CLIENTS // 2)
    wait(lambda: is_clean(cluster), "the second thousand are gone")
    assert resident(cluster) - before < GROWTH_LIMIT
    failures = {
        labels["reason"]: value
        for name, labels, value in samples_of(cluster.control_url)
        if name == "sealgate_tls_handshake_failures_total" and value
    }
    assert failures == {"client_closed": CLIENTS}, "each one is counted, with its reason"
    context = ssl.create_default_context(cafile=str(cluster.ca))
    with urllib.request.urlopen(cluster.url, context=context, timeout=10) as answer:
        assert b"You reached web-1" in answer.read() or answer.status == 200
    with urllib.request.urlopen(cluster.control_url + "/status", timeout=5) as answer:
        assert json.load(answer), "the control process answers"
