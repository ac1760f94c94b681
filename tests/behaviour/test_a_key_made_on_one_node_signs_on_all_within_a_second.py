"""What is done to a key through one node is true on all nodes of its token within a second.

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
from tests.support.tls_messages import certificate_verify

MESSAGE = certificate_verify(b"a handshake")


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
            answer = await link.ask(ski, Scheme.ECDSA_SHA256, MESSAGE, is_whole=True)
            if is_wanted(answer) or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.01)
    finally:
        await link.close()


async def answers_of_all(cluster: Cluster, ski: bytes, is_wanted: Callable[[object], bool]) -> list[object]:
    deadline = time.monotonic() + (1.0 if cluster.spec.backend == "vault" else 5.0)
    asked = [first_answer(cluster, spot, ski, is_wanted, deadline) for spot in cluster.nodes.values()]
    return list(await asyncio.gather(*asked))


def is_signed(answer: object) -> bool:
    return isinstance(answer, Signed)


def is_refused(answer: object) -> bool:
    return isinstance(answer, Failed)


async def test_a_key_made_on_one_node_signs_on_all_within_a_second(each_cluster: Cluster) -> None:
    async def say(*arguments: str) -> str:
        return await asyncio.to_thread(key_command, each_cluster, *arguments)

    made = json.loads(await say("generate", "shared", "--type", "p256", "--json"))
    ski = bytes.fromhex(made["ski"])
    for answer in await answers_of_all(each_cluster, ski, is_signed):
        assert isinstance(answer, Signed), answer
        verify(made["public_key"], Scheme.ECDSA_SHA256, answer.signature, MESSAGE)
    await say("destroy", "shared", "--yes")
    assert all(map(is_refused, await answers_of_all(each_cluster, ski, is_refused))), "it waits for its destruction"
    await say("activate", "shared")
    assert all(map(is_signed, await answers_of_all(each_cluster, ski, is_signed))), "it was taken back"
    await say("destroy", "shared", "--yes", "--grace", "0")
    assert all(map(is_refused, await answers_of_all(each_cluster, ski, is_refused)))
    assert "shared" not in await say("list")
