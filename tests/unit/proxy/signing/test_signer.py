"""The signer against scripted nodes on real mTLS sockets: what a handshake sees when nodes fail."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from hsm.wire.errors import ErrorCode
from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.observe import NodeState
from proxy.signing.commands import Attempt, RoutedJob
from proxy.signing.signer import PendingSignature
from proxy.signing.waiting import SWEEP_FROM
from tests.support.fake_node import FakeKey, Fault
from tests.support.signing_cluster import Cluster, until

MakeCluster = Callable[..., Awaitable[Cluster]]


async def sign_many(cluster: Cluster, count: int) -> None:
    await asyncio.gather(*(cluster.sign() for _ in range(count)))


async def test_jobs_are_signed_and_spread_over_the_nodes(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster()
    await sign_many(cluster, 30)
    assert cluster.observer.finished == {"a": 10, "b": 10, "c": 10}


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("p256", Scheme.ECDSA_SHA384),
        ("p384", Scheme.ECDSA_SHA384),
        ("rsa-2048", Scheme.RSA_PSS_SHA256),
        ("rsa-2048", Scheme.RSA_PKCS1_SHA512),
        ("ed25519", Scheme.ED25519),
    ],
)
async def test_each_kind_of_key_signs(make_cluster: MakeCluster, kind: str, scheme: Scheme) -> None:
    key = FakeKey.make(kind)
    cluster = await make_cluster("a", keys={"a": [key, FakeKey.make()]})
    await cluster.sign(key=key, scheme=scheme)


async def test_a_thousand_jobs_at_once(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster(max_in_flight_per_node=100, attempt_timeout_s=3.0, job_timeout_s=10.0)
    await asyncio.gather(*(cluster.sign(timeout_s=10.0) for _ in range(1000)))
    assert cluster.observer.finished.total() == 1000
    assert cluster.observer.most_waiting > 600
    assert all(node.most_in_flight <= 100 for node in cluster.nodes.values())


async def test_several_links_to_one_node_share_the_work(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", links_per_node=3)
    await until(lambda: cluster.signer.status()[0].links_up == 3)
    await sign_many(cluster, 30)
    node = cluster.nodes["a"]
    next(iter(node.connections)).transport.abort()
    await sign_many(cluster, 10)
    assert cluster.observer.failed.total() == 0
    await until(lambda: cluster.signer.status()[0].links_up == 3)


async def test_a_killed_node_costs_its_jobs_nothing_but_another_attempt(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", attempt_timeout_s=2.0)
    cluster.nodes["a"].fault = Fault.HANG
    started = asyncio.get_running_loop().time()
    jobs = asyncio.gather(*(cluster.sign() for _ in range(20)))
    await until(lambda: cluster.signer.status()[0].in_flight == 10)
    await cluster.nodes["a"].kill()
    await jobs
    assert asyncio.get_running_loop().time() - started < 1.0
    assert cluster.observer.attempts["a", SigningReason.LINK_LOST] == 10
    assert cluster.observer.finished == {"b": 20}
    assert cluster.state("a") is NodeState.DOWN


async def test_a_node_that_comes_back_is_used_again(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    await cluster.nodes["a"].kill()
    await cluster.up("b")
    await sign_many(cluster, 5)
    await cluster.nodes["a"].start()
    await cluster.up("a", "b")
    before = cluster.observer.finished["a"]
    while cluster.observer.finished["a"] < before + 5:
        await sign_many(cluster, 10)


async def test_jobs_wait_while_every_node_is_gone_for_a_moment(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    for node in cluster.nodes.values():
        await node.kill()
    await cluster.up()
    jobs = asyncio.gather(*(cluster.sign() for _ in range(10)))
    await until(lambda: cluster.signer.waiting == 10)
    await cluster.nodes["b"].start()
    await jobs
    assert cluster.observer.finished == {"b": 10}


async def test_with_every_node_gone_a_job_fails_at_its_deadline_and_not_later(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    for node in cluster.nodes.values():
        await node.kill()
    await cluster.up()
    loop = asyncio.get_running_loop()
    started = loop.time()
    error = await cluster.failure(timeout_s=0.3)
    assert error.reason is SigningReason.NO_NODE
    assert 0.295 <= loop.time() - started < 0.55
    assert cluster.key.ski.hex() in str(error)


async def test_a_hung_node_costs_one_attempt_and_is_taken_out(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    cluster.nodes["a"].fault = Fault.HANG
    loop = asyncio.get_running_loop()
    started = loop.time()
    await sign_many(cluster, 10)
    assert loop.time() - started < 1.5
    await cluster.up("b")
    assert ("a", NodeState.EJECTED) in cluster.observer.states
    before = cluster.observer.attempts["a", SigningReason.TIMEOUT]
    await sign_many(cluster, 10)
    assert cluster.observer.attempts["a", SigningReason.TIMEOUT] == before
    cluster.nodes["a"].fault = Fault.NONE
    await cluster.up("a", "b")


async def test_with_every_node_hung_a_job_fails_at_its_deadline(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", probe_fall=1000)
    for node in cluster.nodes.values():
        node.fault = Fault.HANG
    loop = asyncio.get_running_loop()
    started = loop.time()
    error = await cluster.failure(timeout_s=0.5)
    assert error.reason is SigningReason.DEADLINE
    assert 0.495 <= loop.time() - started < 0.75


async def test_a_slow_node_is_waited_for_within_the_attempt_timeout(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    cluster.nodes["a"].fault, cluster.nodes["a"].delay_s = Fault.SLOW, 0.1
    await sign_many(cluster, 50)
    assert cluster.observer.attempts["a", SigningReason.TIMEOUT] == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (ErrorCode.INTERNAL, SigningReason.NODE_ERROR),
        (ErrorCode.CRYPTOGRAPHY, SigningReason.NODE_ERROR),
        (ErrorCode.BUSY, SigningReason.BUSY),
        (ErrorCode.DENIED, SigningReason.DENIED),
        (ErrorCode.DEADLINE, SigningReason.TIMEOUT),
        (ErrorCode.KEY_NOT_FOUND, SigningReason.KEY_NOT_FOUND),
    ],
)
async def test_a_node_that_answers_with_an_error_fails_no_job(
    make_cluster: MakeCluster, code: ErrorCode, reason: SigningReason
) -> None:
    cluster = await make_cluster("ab")
    cluster.nodes["a"].fault, cluster.nodes["a"].error_code = Fault.ERROR, code
    await sign_many(cluster, 20)
    assert cluster.observer.failed.total() == 0
    assert cluster.observer.attempts["a", reason] + cluster.observer.probes["a", reason] > 0


async def test_a_request_that_is_malformed_everywhere_fails_after_one_attempt(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    for node in cluster.nodes.values():
        node.fault, node.error_code = Fault.ERROR, ErrorCode.MALFORMED
    error = await cluster.failure()
    assert error.reason is SigningReason.NODE_ERROR
    assert "scripted" in str(error)
    assert cluster.observer.attempts_started == 1


async def test_a_busy_node_is_asked_again_after_its_time(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    node = cluster.nodes["a"]
    node.fault, node.error_code, node.retry_after_s = Fault.ERROR, ErrorCode.BUSY, 0.15
    job = asyncio.gather(cluster.sign())
    await until(lambda: cluster.observer.attempts["a", SigningReason.BUSY] == 1)
    node.fault = Fault.NONE
    loop = asyncio.get_running_loop()
    started = loop.time()
    await job
    assert loop.time() - started > 0.1
    assert cluster.observer.attempts_started == 2


@pytest.mark.parametrize("mode", ["always", "never"])
async def test_bytes_that_are_no_signature_never_reach_a_handshake(make_cluster: MakeCluster, mode: str) -> None:
    cluster = await make_cluster("ab", verify_signatures=mode)
    cluster.nodes["a"].fault = Fault.GARBAGE
    await sign_many(cluster, 10)
    await cluster.up("b")
    assert "no signature of this scheme" in cluster.signer.status()[0].last_error


async def test_a_node_that_signs_wrongly_is_taken_out_by_its_first_probe(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab", probe_fall=100)
    cluster.nodes["a"].fault = Fault.WRONG_SIGNATURE
    await cluster.up("b")
    assert "does not verify" in cluster.signer.status()[0].last_error
    await sign_many(cluster, 10)


async def test_a_node_that_resets_its_links_when_asked_fails_no_job(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    cluster.nodes["a"].fault = Fault.DROP
    await sign_many(cluster, 20)
    assert cluster.observer.failed.total() == 0


async def test_a_draining_node_gets_nothing_new_and_loses_nothing(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    cluster.nodes["a"].fault = Fault.SLOW
    jobs = asyncio.gather(*(cluster.sign() for _ in range(10)))
    await until(lambda: cluster.signer.status()[0].in_flight == 5)
    cluster.nodes["a"].announce_draining()
    await until(lambda: cluster.state("a") is NodeState.DRAINING)
    asked = cluster.nodes["a"].asked.total()
    await sign_many(cluster, 10)
    await jobs
    probes = 10
    assert cluster.nodes["a"].asked.total() <= asked + probes
    assert cluster.observer.finished["b"] >= 10
    assert cluster.observer.failed.total() == 0


async def test_a_node_without_the_key_is_not_asked_for_it(make_cluster: MakeCluster) -> None:
    other = FakeKey.make(number=1)
    cluster = await make_cluster("ab", keys={"a": [other], "b": [FakeKey.make()]})
    await sign_many(cluster, 10)
    assert cluster.nodes["a"].asked[cluster.key.ski] == 0
    await cluster.sign(key=other)
    assert cluster.observer.finished == {"a": 1, "b": 10}
    assert cluster.signer.has_node_for(other.ski)


async def test_a_plain_node_is_asked_until_it_says_that_it_lacks_the_key(make_cluster: MakeCluster) -> None:
    other = FakeKey.make(number=1)
    cluster = await make_cluster("ab", keys={"a": [FakeKey.make()], "b": [FakeKey.make(), other]}, plain="ab")
    for _ in range(6):
        await cluster.sign(key=other)
    assert cluster.nodes["a"].asked[other.ski] <= 1
    assert cluster.signer.status()[0].keys is None


async def test_a_key_that_arrives_while_running_is_usable(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    new = FakeKey.make(number=2)
    assert (await cluster.failure(key=new)).reason is SigningReason.KEY_NOT_FOUND
    cluster.nodes["b"].change_keys([cluster.key, new])
    await until(lambda: cluster.signer.has_node_for(new.ski))
    await cluster.sign(key=new)
    assert cluster.observer.finished == {"b": 1}


async def test_a_full_queue_refuses_at_once_but_never_from_inside_submit(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", max_in_flight_per_node=1, max_waiting_jobs=3)
    cluster.nodes["a"].fault = Fault.HANG
    results: list[bytes | SigningError] = []
    for _ in range(6):
        cluster.signer.submit(cluster.job(timeout_s=0.5), results.append)
    assert results == []
    await asyncio.sleep(0)
    assert [error.reason for error in results if isinstance(error, SigningError)] == [SigningReason.QUEUE_FULL] * 2
    await until(lambda: len(results) == 6)


async def test_clients_that_leave_are_cancelled_on_the_wire_and_leave_nothing(make_cluster: MakeCluster) -> None:
    quiet = {"attempt_timeout_s": 3.0, "probe_interval_s": 10.0}
    cluster = await make_cluster("ab", routing={"window_initial": 50}, max_in_flight_per_node=50, **quiet)
    for node in cluster.nodes.values():
        node.fault = Fault.HANG
    called: list[object] = []
    pending = [cluster.signer.submit(cluster.job(), called.append) for _ in range(300)]
    await until(lambda: sum(node.asked.total() for node in cluster.nodes.values()) >= 100)
    assert (cluster.signer.in_flight, cluster.signer.waiting) == (100, 200)
    for handle in pending:
        handle.cancel()
        handle.cancel()
    await until(lambda: all(node.cancelled >= 50 for node in cluster.nodes.values()))
    assert (cluster.signer.in_flight, cluster.signer.waiting) == (0, 0)
    assert called == []
    assert cluster.observer.failed == {SigningReason.CANCELLED: 300}
    pending.clear()
    del handle
    gc.collect()
    left = [thing for thing in gc.get_objects() if isinstance(thing, RoutedJob | Attempt | PendingSignature)]
    assert len(left) <= SWEEP_FROM, "cancelled jobs are still held"
    for node in cluster.nodes.values():
        node.fault = Fault.NONE
    await sign_many(cluster, 20)


async def test_stop_while_links_are_being_opened(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("abc", wait=False)
    cluster.nodes["b"].fault = Fault.SILENT
    await cluster.nodes["c"].kill()
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await cluster.signer.stop()
    assert loop.time() - started < 0.5


async def test_cancelling_the_call_cancels_the_attempt(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", attempt_timeout_s=3.0, probe_interval_s=10.0)
    cluster.nodes["a"].fault = Fault.HANG
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await cluster.signer.sign(cluster.job())
    await until(lambda: cluster.nodes["a"].cancelled == 1)
    assert cluster.signer.in_flight == 0


async def test_a_callback_may_submit_and_cancel_others(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    cluster.nodes["a"].fault = Fault.SLOW
    results: list[object] = []

    def first_done(result: bytes | SigningError) -> None:
        results.append(result)
        second.cancel()
        cluster.signer.submit(cluster.job(), results.append)

    cluster.signer.submit(cluster.job(), first_done)
    second = cluster.signer.submit(cluster.job(), results.append)
    await until(lambda: len(results) == 2)
    assert second.is_done
    assert all(isinstance(result, bytes) for result in results)


async def test_a_callback_that_raises_takes_no_other_job_with_it(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a")
    results: list[object] = []

    def broken(_result: object) -> None:
        raise RuntimeError("a mistake")

    cluster.signer.submit(cluster.job(), broken)
    cluster.signer.submit(cluster.job(), results.append)
    await until(lambda: len(results) == 1)
    assert cluster.observer.crashed == ["signing callback"]
    cluster.observer.crashed.clear()


async def test_stop_fails_waiting_jobs_and_lets_nodes_answer(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", max_in_flight_per_node=2, attempt_timeout_s=1.0)
    cluster.nodes["a"].fault = Fault.SLOW
    results: list[bytes | SigningError] = []
    for _ in range(5):
        cluster.signer.submit(cluster.job(), results.append)
    await cluster.signer.stop()
    reasons = [result.reason for result in results if isinstance(result, SigningError)]
    assert reasons == [SigningReason.STOPPED] * 3
    assert len(results) == 5
    assert (await cluster.failure()).reason is SigningReason.STOPPED


async def test_stop_gives_up_on_a_node_that_does_not_answer(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", attempt_timeout_s=0.2, probe_fall=1000)
    cluster.nodes["a"].fault = Fault.HANG
    results: list[bytes | SigningError] = []
    cluster.signer.submit(cluster.job(), results.append)
    await cluster.signer.stop()
    assert [result.reason for result in results if isinstance(result, SigningError)] == [SigningReason.STOPPED]


async def test_wait_ready_says_whether_every_site_key_can_be_used(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("a", keys={"a": [FakeKey.make(number=3)]})
    assert not await cluster.signer.wait_ready(0.1)
    cluster.nodes["a"].change_keys([cluster.key])
    assert await cluster.signer.wait_ready(2.0)


async def test_status_tells_how_each_node_stands(make_cluster: MakeCluster) -> None:
    cluster = await make_cluster("ab")
    await sign_many(cluster, 4)
    await cluster.nodes["b"].kill()
    await cluster.up("a")
    a, b = cluster.signer.status()
    assert (a.name, a.state, a.links_up, a.keys, a.signatures, a.failures) == ("a", NodeState.UP, 1, 1, 2, 0)
    assert (b.state, b.links_up, b.in_flight) == (NodeState.DOWN, 0, 0)
    assert a.last_probe_s is not None
    assert b.last_error
