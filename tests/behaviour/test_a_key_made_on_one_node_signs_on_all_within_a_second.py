"""A key made through one node signs on all nodes of its token within a second; after `destroy` on none.

Nodes on a PKCS#11 token hear of it when they look at the token the next time, which takes them a little longer.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Callable

from hsm.shared.mtls import Identity
from hsm.wire.messages import Failed, Signed
from hsm.wire.schemes import Scheme
from proxy.demo.cluster import Cluster, NodeSpot
from proxy.demo.processes import sealgate
from tests.support.node import Link, verify

MESSAGE = b"the message"


def key_command(cluster: Cluster, *arguments: str) -> str:
    """Output of `sealgate key`, told to node-1."""
    config = str(cluster.nodes["node-1"].config)
    done = subprocess.run(
        sealgate("key", *arguments, "--config", config), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def first_answer(
    cluster: Cluster, spot: NodeSpot, ski: bytes, is_wanted: Callable[[object], bool], deadline: float
) -> object:
    """Asks a node until it answers as wanted; the last answer, whatever it is, at the deadline."""
    pki = cluster.spec.directory / "pki"
    link = await Link.open(f"127.0.0.1:{spot.port}", Identity(pki / "ca.pem", pki / "proxy.pem", pki / "proxy.key"))
    try:
        while True:
            answer = await link.ask(ski, Scheme.ECDSA_SHA256, MESSAGE)
            if is_wanted(answer) or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.01)
    finally:
        await link.close()


async def answers_of_all(cluster: Cluster, ski: bytes, is_wanted: Callable[[object], bool]) -> list[object]:
    deadline = time.monotonic() + (1.0 if cluster.spec.backend == "vault" else 5.0)
    asked = [first_answer(cluster, spot, ski, is_wanted, deadline) for spot in cluster.nodes.values()]
    return list(await asyncio.gather(*asked))


async def test_a_key_made_on_one_node_signs_on_all_within_a_second(each_cluster: Cluster) -> None:
    cluster = each_cluster
    made = json.loads(await asyncio.to_thread(key_command, cluster, "generate", "shared", "--type", "p256", "--json"))
    ski = bytes.fromhex(made["ski"])
    answers = await answers_of_all(cluster, ski, lambda answer: isinstance(answer, Signed))
    for answer in answers:
        assert isinstance(answer, Signed)
        verify(made["public_key"], Scheme.ECDSA_SHA256, answer.signature, MESSAGE)
    await asyncio.to_thread(key_command, cluster, "destroy", "shared", "--yes")
    gone = await answers_of_all(cluster, ski, lambda answer: isinstance(answer, Failed))
    assert all(isinstance(answer, Failed) for answer in gone)
    assert "shared" not in await asyncio.to_thread(key_command, cluster, "list")
