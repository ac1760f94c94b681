"""A node that signs wrongly: found, out of rotation, back when it has proven itself; its jobs get theirs elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningReason
from proxy.base.observe import NodeState
from proxy.signing.verification import PROVEN_AFTER, SAMPLE_BITS, KeyVerifier
from tests.support.fake_node import FakeKey, Fault
from tests.support.signing_cluster import Cluster, until

MakeCluster = Callable[..., Awaitable[Cluster]]
KEYS = {"p256": Scheme.ECDSA_SHA256, "rsa-2048": Scheme.RSA_PSS_SHA256, "ed25519": Scheme.ED25519}
WRONG = SigningReason.WRONG_SIGNATURE
NO_PROBES = {"probe_interval_s": 60.0}
"""Only the first probe of a link comes: jobs alone find what is wrong."""


async def wrong_ones(cluster: Cluster, count: int, *, at_once: int = 10) -> int:
    """How many of `count` jobs were given a signature that does not verify."""
    verifier = KeyVerifier(cluster.key.public_pem)

    async def is_wrong() -> bool:
        job = cluster.job()
        return not verifier.is_good(job.scheme, job.message, await cluster.signer.sign(job))

    total = 0
    for _ in range(count // at_once):
        total += sum(await asyncio.gather(*(is_wrong() for _ in range(at_once))))
    return total


async def prove(cluster: Cluster) -> None:
    """Sign until every node has proven itself."""
    while any(node.signed < PROVEN_AFTER + 2 for node in cluster.nodes.values()):
        await wrong_ones(cluster, 20)


@pytest.mark.parametrize("kind", KEYS)
async def test_with_always_no_wrong_signature_reaches_a_handshake(make_cluster: MakeCluster, kind: str) -> None:
    key = FakeKey.make(kind)
    held = {name: [key] for name in "ab"}
    cluster = await make_cluster("ab", keys=held, site_keys=[key], verify_signatures="always", **NO_PROBES)
    await asyncio.gather(*(cluster.sign(key=key, scheme=KEYS[kind]) for _ in range(20)))
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    await asyncio.gather(*(cluster.sign(key=key, scheme=KEYS[kind]) for _ in range(20)))
    assert cluster.state("a") is NodeState.DOWN
    assert cluster.observer.attempts["a", WRONG] >= 1
    assert cluster.observer.failed.total() == 0
    asked = cluster.nodes["a"].asked.total()
    await asyncio.gather(*(cluster.sign(key=key, scheme=KEYS[kind]) for _ in range(20)))
    assert cluster.nodes["a"].asked.total() <= asked + 1  # a probe


async def test_a_sample_finds_a_proven_node_that_begins_to_sign_wrongly(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", verify_signatures="sampled", **NO_PROBES)
    await prove(cluster)
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    reached = 0
    while cluster.state("a") is NodeState.UP:
        reached += await wrong_ones(cluster, 10)
    assert reached <= 20 << SAMPLE_BITS
    assert await wrong_ones(cluster, 100) == 0
    assert cluster.observer.attempts["a", WRONG] >= 1


async def test_a_node_that_has_just_come_up_is_believed_nothing(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", verify_signatures="sampled", **NO_PROBES)
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    assert await wrong_ones(cluster, 60) == 0
    assert cluster.state("a") is NodeState.DOWN


async def test_with_never_probes_alone_find_it(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", verify_signatures="never", **NO_PROBES)
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    assert await wrong_ones(cluster, 20) > 0
    assert cluster.state("a") is NodeState.UP


async def test_the_first_answer_ever_may_be_the_wrong_one_and_a_lone_node_redeems_itself(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("a", verify_signatures="always")
    node = cluster.nodes["a"]
    node.fault = Fault.WRONG_SIGNATURE
    job = asyncio.gather(cluster.sign())
    await until(lambda: cluster.state("a") is NodeState.DOWN)
    asked = node.asked.total()
    node.fault = Fault.NONE
    await job  # it waited until the node had signed three probes well
    assert cluster.state("a") is NodeState.UP
    assert node.asked.total() >= asked + 3


async def test_a_node_with_one_bad_key_stays_out_while_others_sign_well(make_cluster: MakeCluster) -> None:
    good, bad = FakeKey.make(), FakeKey.make(number=1)
    held = {name: [good, bad] for name in "ab"}
    cluster = await make_cluster("ab", keys=held, site_keys=[good, bad])
    node = cluster.nodes["a"]
    node.wrong_skis.add(bad.ski)
    await cluster.up("b")
    seen = cluster.observer.probes["a", WRONG]
    await until(lambda: cluster.observer.probes["a", WRONG] >= seen + 5)
    assert cluster.state("a") is NodeState.DOWN
    node.wrong_skis.clear()
    await cluster.up("a", "b")


async def test_keys_without_a_certificate_are_judged_by_form(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", knows_public_key=False, verify_signatures="always")
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    assert await wrong_ones(cluster, 10) == 10


async def test_probes_are_what_a_node_for_tls_servers_signs(make_cluster: MakeCluster) -> None:
    keys = [FakeKey.make(kind) for kind in ("p256", "p384", "p521", "rsa-2048", "ed25519")]
    cluster = await make_cluster("a", keys={"a": keys}, site_keys=keys, probe_interval_s=0.02)
    node = cluster.nodes["a"]
    await until(lambda: all(node.asked[key.ski] for key in keys))
    assert {message[:98] for message in node.messages} == {b" " * 64 + b"TLS 1.3, server CertificateVerify\0"}
    assert len(set(node.messages)) == len(node.messages)
    assert cluster.observer.probes["a", WRONG] == 0
