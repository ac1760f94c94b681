"""Nodes that come, go, drain and are disabled under load, on real sockets: no job fails for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from structlog.testing import capture_logs

from proxy.base.errors import SigningReason
from proxy.base.observe import NodeState
from proxy.base.policy import NodeAddress
from proxy.signing.commands import NodeEjected, NodeReturned
from proxy.signing.results import CONSECUTIVE, SHARE
from tests.support.fake_node import FakeNode, Fault, LinkPki
from tests.support.signing_cluster import Cluster, until

MakeCluster = Callable[..., Awaitable[Cluster]]


@asynccontextmanager
async def load(cluster: Cluster, *, at_once: int = 8) -> AsyncIterator[None]:
    """Handshakes one after another, all of which must be signed."""
    is_over = False

    async def handshakes() -> None:
        while not is_over:
            await cluster.sign()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(handshakes())
        try:
            yield
        finally:
            is_over = True
    assert cluster.observer.failed.total() == 0


async def served(cluster: Cluster, node: str, count: int = 20) -> None:
    """Wait until `node` has signed so many more jobs."""
    wanted = cluster.observer.finished[node] + count
    await until(lambda: cluster.observer.finished[node] >= wanted)


async def new_node(cluster: Cluster, link_pki: LinkPki, name: str) -> FakeNode:
    node = FakeNode(name, link_pki, [cluster.key])
    await node.start()
    cluster.nodes[name] = node
    return node


async def test_a_node_that_comes_gets_work_and_one_that_goes_gets_none(
    make_cluster: MakeCluster, link_pki: LinkPki
) -> None:
    cluster = await make_cluster("a", routing={"ramp_up_s": 0.0})
    node = await new_node(cluster, link_pki, "b")
    async with load(cluster):
        cluster.signer.add_node(node.address)
        await cluster.up("a", "b")
        await served(cluster, "b")
        cluster.signer.remove_node("a")
        await until(lambda: cluster.observer.gone == ["a"])
        await until(lambda: not cluster.nodes["a"].connections)
        await served(cluster, "b")
    assert [status.name for status in cluster.signer.status()] == ["b"]


async def test_a_node_that_goes_finishes_what_it_has(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", routing={"hedge_share": 0.0})
    slow = cluster.nodes["a"]
    slow.fault, slow.delay_s = Fault.SLOW, 0.1
    jobs = asyncio.gather(*(cluster.sign() for _ in range(10)))
    await until(lambda: cluster.signer.status()[0].in_flight > 0)
    under_way = cluster.signer.status()[0].in_flight
    cluster.signer.remove_node("a")
    cluster.signer.remove_node("a")
    await jobs
    await until(lambda: cluster.observer.gone == ["a"])
    assert cluster.observer.finished["a"] == under_way


async def test_a_node_that_goes_while_it_hangs_leaves_its_jobs_to_others(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", probe_interval_s=10.0, routing={"hedge_share": 0.0})
    cluster.nodes["a"].fault = Fault.HANG
    jobs = asyncio.gather(*(cluster.sign() for _ in range(10)))
    await until(lambda: cluster.signer.status()[0].in_flight > 0)
    cluster.signer.remove_node("a")
    await jobs
    await until(lambda: cluster.observer.gone == ["a"])
    assert cluster.observer.failed.total() == 0
    assert cluster.observer.finished == {"b": 10}


async def test_a_node_that_is_back_while_it_still_drains_comes_back_afterwards(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    address = cluster.nodes["a"].address
    async with load(cluster):
        cluster.signer.remove_node("a")
        assert not cluster.signer.set_admin("a", "draining")
        cluster.signer.add_node(address)
        await until(lambda: cluster.observer.gone == ["a"])
        await cluster.up("a", "b")


async def test_the_last_node_that_is_up_is_kept_until_another_one_is(
    make_cluster: MakeCluster, link_pki: LinkPki
) -> None:
    cluster = await make_cluster("ab", routing={"ramp_up_s": 0.0})
    async with load(cluster):
        for name in "ab":
            cluster.signer.remove_node(name)
        await until(lambda: len(cluster.observer.gone) == 1)
        (last,) = {"a", "b"} - set(cluster.observer.gone)
        await served(cluster, last)
        node = await new_node(cluster, link_pki, "c")
        cluster.signer.add_node(node.address)
        await until(lambda: sorted(cluster.observer.gone) == ["a", "b"])
        await served(cluster, "c")


async def test_a_node_that_was_kept_as_the_last_one_stays_when_it_is_named_again(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    async with load(cluster):
        cluster.signer.remove_node("a")
        await served(cluster, "a")
        cluster.signer.add_node(cluster.nodes["a"].address)
        await until(lambda: cluster.signer.set_admin("a", "enabled"))
        await served(cluster, "a")
    assert cluster.observer.gone == []
    assert len(cluster.nodes["a"].connections) == 1


async def test_a_known_node_that_comes_again_is_only_weighed_anew(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    known = cluster.nodes["a"].address
    cluster.signer.add_node(NodeAddress(name="a", address=known.address, weight=3.0))
    assert [(status.name, status.weight) for status in cluster.signer.status()] == [("a", 3.0), ("b", 1.0)]
    assert len(cluster.nodes["a"].connections) == 1


async def test_a_node_that_drains_gets_nothing_new_and_keeps_its_link(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", routing={"ramp_up_s": 0.0})
    async with load(cluster):
        await served(cluster, "a", 5)
        assert cluster.signer.set_admin("a", "draining")
        assert cluster.state("a") is NodeState.DRAINING
        await until(lambda: cluster.signer.status()[0].in_flight == 0)
        before = cluster.observer.finished["a"]
        await served(cluster, "b")
        assert cluster.observer.finished["a"] == before
        assert len(cluster.nodes["a"].connections) == 1
        assert cluster.signer.set_admin("a", "enabled")
        await served(cluster, "a", 5)


async def test_a_node_that_is_disabled_loses_its_link_and_gets_it_back(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", routing={"ramp_up_s": 0.0})
    async with load(cluster):
        await served(cluster, "a", 5)
        assert cluster.signer.set_admin("a", "disabled")
        await until(lambda: not cluster.nodes["a"].connections)
        assert cluster.state("a") is NodeState.DISABLED
        assert cluster.signer.set_admin("a", "enabled")
        await cluster.up("a", "b")
        await served(cluster, "a", 5)


async def test_there_is_nothing_to_wish_of_a_node_that_is_not_there(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    assert not cluster.signer.set_admin("z", "draining")
    cluster.signer.remove_node("z")
    assert [status.name for status in cluster.signer.status()] == ["a"]


async def test_an_ejection_is_told_with_its_reason_and_its_time(make_cluster: MakeCluster) -> None:
    with capture_logs() as logs:
        cluster = await make_cluster("a")
        nodes = cluster.signer._nodes
        nodes.tell(NodeEjected("a", b"", CONSECUTIVE, time.monotonic() + 4))
        nodes.tell(NodeReturned("a", b""))
        nodes.tell(NodeEjected("a", b"\xab", SHARE, time.monotonic() + 2))
        nodes.tell(NodeReturned("a", b"\xab"))
    told = [(log["event"], log["log_level"], log.get("key"), log.get("for_s"), log["why"]) for log in logs]
    assert [line for line in told if line[0] != "node_changed"] == [
        ("ejected", "warning", "all", 4.0, "failures in a row"),
        ("ejected", "warning", "ab", 2.0, "too large a share of failures"),
        ("key_returned", "info", "ab", None, "its time is over"),
    ]


async def test_a_node_that_dies_is_a_warning_and_its_return_is_not(make_cluster: MakeCluster) -> None:
    with capture_logs() as logs:
        cluster = await make_cluster("ab")
        await cluster.nodes["a"].kill()
        await until(lambda: any(log.get("state") == "down" for log in logs))
    told = {(log["node"], log["state"], log["log_level"]) for log in logs if log["event"] == "node_changed"}
    assert told == {("a", "up", "info"), ("b", "up", "info"), ("a", "down", "warning")}


async def test_a_second_node_is_asked_beside_a_slow_one_and_the_loser_is_told(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", probe_interval_s=10.0, attempt_timeout_s=3.0, routing={"hedge_share": 0.5})
    for _ in range(100):
        await cluster.sign()
    before = cluster.observer.finished.copy()
    cluster.nodes["a"].fault = Fault.HANG
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not cluster.observer.hedges_won["b"]:
        await cluster.sign()
    assert loop.time() - started < 1.0, "a timeout, and not a second attempt, has helped"
    await until(lambda: cluster.nodes["a"].cancelled >= 1)
    assert cluster.observer.attempts["a", SigningReason.OUTRUN] >= 1
    assert cluster.observer.finished["b"] > before["b"]
    assert cluster.signer.in_flight == cluster.signer.waiting == 0
