"""A link against a scripted node: connecting, reconnecting, listing keys, back-pressure, coalescing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from hsm.shared.tasks import Tasks
from hsm.wire.errors import ErrorCode, LinkClosed, LinkFull
from hsm.wire.messages import Expired, Failed, KeyEntry, Lost, Ponged, Signed
from hsm.wire.schemes import KeyFamily, Scheme
from proxy.base.policy import NodeAddress
from proxy.signing.backoff import ReconnectBackoff
from proxy.signing.connection import WRITE_BUFFER_BYTES
from proxy.signing.node_link import MAX_ATTEMPTS, PROBE_SLOTS, NodeLink
from tests.support.fake_node import FakeKey, FakeNode, Fault, LinkPki
from tests.support.play import policy
from tests.support.signing_cluster import QUICK, until


@dataclass
class Owner:
    """Writes down what it hears."""

    heard: list[tuple[Any, ...]] = field(default_factory=list)

    def link_opened(self, link: NodeLink, keys: tuple[KeyEntry, ...] | None) -> None:
        self.heard.append(("opened", keys))

    def link_keys(self, link: NodeLink, keys: tuple[KeyEntry, ...]) -> None:
        self.heard.append(("keys", keys))

    def link_lost(self, link: NodeLink, why: str) -> None:
        self.heard.append(("lost", why))

    def link_failed(self, link: NodeLink, why: str) -> None:
        self.heard.append(("failed", why))

    def link_draining(self, link: NodeLink) -> None:
        self.heard.append(("draining",))

    def link_writable(self, link: NodeLink) -> None:
        self.heard.append(("writable", link.is_writable))

    def count(self, what: str) -> int:
        return sum(one[0] == what for one in self.heard)


@dataclass
class Bench:
    """One node, one link."""

    node: FakeNode
    link: NodeLink
    owner: Owner
    key: FakeKey
    answers: list[tuple[Any, Any]] = field(default_factory=list)

    def ask(self, tag: object = 0, *, timeout_s: float = 2.0, **context: str) -> int:
        deadline = asyncio.get_running_loop().time() + timeout_s
        return self.link.sign(
            self.key.ski,
            Scheme.ECDSA_SHA256,
            bytes(32),
            deadline,
            lambda got, answer: self.answers.append((got, answer)),
            tag,
            **context,
        )

    async def opened(self) -> None:
        self.link.start()
        await until(lambda: self.link.is_usable)


@pytest.fixture
async def bench(link_pki: LinkPki) -> AsyncIterator[Bench]:
    key = FakeKey.make()
    node = await FakeNode("a", link_pki, [key]).start()
    tasks = Tasks()
    owner = Owner()
    backoff = ReconnectBackoff(0.02, 0.1, Random(1))
    changes = QUICK | {"max_in_flight_per_node": 100}
    link = NodeLink(node.address, policy(**changes), link_pki.client_context(), owner, tasks=tasks, backoff=backoff)
    yield Bench(node, link, owner, key)
    link.stop()
    await tasks.stop()
    await node.kill()
    await asyncio.sleep(0.02)


async def test_a_link_opens_and_lists_the_keys(bench: Bench) -> None:
    await bench.opened()
    assert bench.owner.heard == [("opened", (KeyEntry(bench.key.ski, bench.key.type, "site"),))]


async def test_a_plain_node_lists_nothing(bench: Bench) -> None:
    bench.node.is_plain = True
    await bench.opened()
    assert bench.owner.heard == [("opened", None)]


async def test_a_name_that_can_not_be_asked_for_is_a_failure_like_others(bench: Bench) -> None:
    address = NodeAddress(name="a", address=bench.node.address.address, server_name=".no.name")
    bench.link._node = address
    bench.link.start()
    await until(lambda: bench.owner.count("failed") >= 2)
    bench.link._node = bench.node.address
    await until(lambda: bench.link.is_usable)


async def test_answers_go_to_whoever_asked(bench: Bench) -> None:
    await bench.opened()
    for number in range(50):
        bench.ask(number)
    await until(lambda: len(bench.answers) == 50)
    assert sorted(tag for tag, _answer in bench.answers) == list(range(50))
    assert all(isinstance(answer, Signed) for _tag, answer in bench.answers)
    assert bench.link.in_flight == 0


async def test_requests_of_one_turn_of_the_loop_leave_in_one_write(bench: Bench) -> None:
    await bench.opened()
    connection = bench.link._connection
    assert connection is not None
    writes: list[int] = []
    transport = connection._transport

    class Counting:
        def write(self, data: bytes) -> None:
            writes.append(len(data))
            transport.write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(transport, name)

    connection._transport = Counting()  # type: ignore[assignment]  # a transport with a counter
    for number in range(40):
        bench.ask(number)
    await until(lambda: len(bench.answers) == 40)
    assert len(writes) == 1


async def test_an_echo_is_answered(bench: Bench) -> None:
    await bench.opened()
    deadline = asyncio.get_running_loop().time() + 1.0
    bench.link.ping(deadline, lambda tag, answer: bench.answers.append((tag, answer)), "echo")
    await until(lambda: bool(bench.answers))
    assert isinstance(bench.answers[0][1], Ponged)


async def test_an_error_comes_with_its_detail(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault, bench.node.error_code, bench.node.retry_after_s = Fault.ERROR, ErrorCode.BUSY, 0.25
    bench.ask()
    await until(lambda: bool(bench.answers))
    answer = bench.answers[0][1]
    assert isinstance(answer, Failed)
    assert (answer.code, answer.detail, answer.retry_after_s) == (ErrorCode.BUSY, "scripted", 0.25)


async def test_deadlines_end_requests_on_time_in_any_order(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault = Fault.HANG
    loop = asyncio.get_running_loop()
    ended: dict[float, float] = {}
    started = loop.time()
    for timeout_s in (0.30, 0.05, 0.20, 0.10):
        bench.link.sign(
            bench.key.ski,
            Scheme.ECDSA_SHA256,
            bytes(32),
            started + timeout_s,
            lambda tag, _answer: ended.setdefault(tag, loop.time() - started),
            timeout_s,
        )
    await until(lambda: len(ended) == 4)
    for timeout_s, after_s in ended.items():
        assert timeout_s - 0.002 <= after_s < timeout_s + 0.2


async def test_a_reset_link_loses_its_requests_at_once_and_opens_again(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault = Fault.HANG
    for number in range(5):
        bench.ask(number)
    await until(lambda: bench.node.asked.total() == 5)
    bench.node.reset_links()
    await until(lambda: len(bench.answers) == 5)
    assert all(isinstance(answer, Lost) for _tag, answer in bench.answers)
    await until(lambda: bench.owner.count("opened") == 2)


async def test_a_link_that_is_refused_is_tried_again_with_growing_pauses(bench: Bench) -> None:
    await bench.node.kill()
    bench.link.start()
    await until(lambda: bench.owner.count("failed") >= 4)
    assert f"127.0.0.1:{bench.node.port}" in bench.owner.heard[0][1]
    with pytest.raises(LinkClosed):
        bench.ask()
    await bench.node.start()
    await until(lambda: bench.link.is_usable)


async def test_a_node_that_accepts_and_says_nothing_is_given_up(bench: Bench) -> None:
    bench.node.fault = Fault.SILENT
    bench.link.start()
    await until(lambda: bench.owner.count("failed") >= 1)
    assert bench.owner.count("opened") == 0
    bench.node.fault = Fault.NONE
    await until(lambda: bench.link.is_usable)


async def test_a_port_that_does_not_speak_tls_is_given_up(link_pki: LinkPki) -> None:
    silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    tasks, owner = Tasks(), Owner()
    address = NodeAddress(name="a", address=f"127.0.0.1:{port}")
    backoff = ReconnectBackoff(0.02, 0.1, Random(1))
    link = NodeLink(address, policy(**QUICK), link_pki.client_context(), owner, tasks=tasks, backoff=backoff)
    link.start()
    await until(lambda: owner.count("failed") >= 1)
    link.stop()
    await tasks.stop()
    silent.close()
    await silent.wait_closed()


async def test_a_certificate_of_another_ca_is_refused_with_a_reason(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = LinkPki.make(tmp_path_factory.mktemp("stranger"))
    tasks, owner = Tasks(), Owner()
    backoff = ReconnectBackoff(0.02, 0.1, Random(1))
    link = NodeLink(bench.node.address, policy(**QUICK), stranger.client_context(), owner, tasks=tasks, backoff=backoff)
    link.start()
    await until(lambda: owner.count("failed") >= 1)
    assert "certificate is not accepted" in owner.heard[0][1]
    link.stop()
    await tasks.stop()


async def test_a_certificate_for_another_name_is_refused(bench: Bench, link_pki: LinkPki) -> None:
    tasks, owner = Tasks(), Owner()
    address = NodeAddress(name="a", address=bench.node.address.address, server_name="other.example")
    backoff = ReconnectBackoff(0.02, 0.1, Random(1))
    link = NodeLink(address, policy(**QUICK), link_pki.client_context(), owner, tasks=tasks, backoff=backoff)
    link.start()
    await until(lambda: owner.count("failed") >= 1)
    assert "certificate is not accepted" in owner.heard[0][1]
    link.stop()
    await tasks.stop()


async def test_changed_keys_are_listed_again(bench: Bench) -> None:
    await bench.opened()
    bench.node.change_keys([FakeKey.make(number=1), FakeKey.make(number=2)])
    await until(lambda: bench.owner.count("keys") == 1)
    assert len(bench.owner.heard[-1][1]) == 2


async def test_draining_is_heard(bench: Bench) -> None:
    await bench.opened()
    bench.node.announce_draining()
    await until(lambda: bench.owner.count("draining") == 1)


async def test_a_cancelled_request_is_not_answered_and_the_node_is_told(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault, bench.node.delay_s = Fault.SLOW, 0.05
    cancelled = bench.ask("cancelled")
    bench.ask("kept")
    await until(lambda: bench.node.asked.total() == 2)
    bench.link.cancel(cancelled)
    bench.link.cancel(cancelled)
    await until(lambda: bool(bench.answers))
    await until(lambda: bench.node.cancelled == 1)
    assert [tag for tag, _answer in bench.answers] == ["kept"]


async def test_a_link_has_room_for_its_jobs_and_a_few_probes(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault = Fault.HANG
    for _ in range(100 + PROBE_SLOTS):
        bench.ask()
    assert not bench.link.can_take
    with pytest.raises(LinkFull):
        bench.ask()


async def test_a_name_or_address_that_can_not_be_sent_is_left_out(bench: Bench) -> None:
    await bench.opened()
    bench.ask(server_name="x" * 70_000, client_ip="fe80::1%eth0")
    await until(lambda: bool(bench.answers))
    assert isinstance(bench.answers[0][1], Signed)


async def test_a_node_that_owes_too_many_answers_gets_a_new_link(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault = Fault.HANG
    for _ in range(2):
        for _ in range((100 + PROBE_SLOTS) // 2):
            bench.ask(timeout_s=0.02)
        await asyncio.sleep(0.04)
    await until(lambda: bench.owner.count("lost") == 1)
    assert "owes" in bench.owner.heard[-1][1] or bench.owner.count("opened") == 2
    assert all(isinstance(answer, Expired | Lost) for _tag, answer in bench.answers)


async def test_a_link_to_a_node_that_does_not_read_counts_as_full(bench: Bench) -> None:
    await bench.opened()
    for connection in bench.node.connections:
        connection.transport.pause_reading()
    connection = bench.link._connection
    assert connection is not None
    padding = bytes(60_000)
    for _ in itertools.repeat(None, 2000):
        if not bench.link.is_writable:
            break
        connection.session.ping(padding, now=0.0, deadline=1e9)
        connection._flush()
        await asyncio.sleep(0)
    assert not bench.link.is_writable
    assert not bench.link.can_take
    assert bench.owner.heard[-1] == ("writable", False)
    assert connection._transport is not None
    assert connection._transport.get_write_buffer_size() >= WRITE_BUFFER_BYTES


async def test_an_attempt_that_hangs_does_not_hold_up_the_next(bench: Bench, link_pki: LinkPki) -> None:
    await bench.node.kill()
    accepted: list[asyncio.BaseTransport] = []

    class Silent(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            accepted.append(transport)

    loop = asyncio.get_running_loop()
    silent = await loop.create_server(Silent, "127.0.0.1", bench.node.port, reuse_address=True)
    tasks, owner = Tasks(), Owner()
    backoff = ReconnectBackoff(0.02, 0.1, Random(1))
    patient = policy(**QUICK | {"connect_timeout_s": 30.0})
    link = NodeLink(bench.node.address, patient, link_pki.client_context(), owner, tasks=tasks, backoff=backoff)
    link.start()
    await until(lambda: len(accepted) == 1)
    silent.close()  # the hanging connection stays open
    await bench.node.start()
    started = loop.time()
    await until(lambda: link.is_usable)
    assert loop.time() - started < 1.0
    assert owner.heard[-1][0] == "opened"
    await until(lambda: len(tasks) == 0)  # the attempt that hung was given up
    link.stop()
    await tasks.stop()


async def test_attempts_that_hang_are_few(bench: Bench) -> None:
    bench.node.fault = Fault.SILENT
    bench.link.start()
    most = 0
    for _ in range(40):
        await asyncio.sleep(0.01)
        most = max(most, len(bench.node.connections))
    assert most == MAX_ATTEMPTS


async def test_a_link_may_be_stopped_and_started_again(bench: Bench) -> None:
    await bench.opened()
    bench.node.fault = Fault.HANG
    bench.ask("lost")
    bench.link.stop("not wanted")
    assert bench.owner.heard[-1] == ("lost", "not wanted")
    assert [(tag, type(answer)) for tag, answer in bench.answers] == [("lost", Lost)]
    await until(lambda: not bench.node.connections)
    heard = len(bench.owner.heard)
    await asyncio.sleep(0.15)  # longer than the longest pause
    assert len(bench.owner.heard) == heard
    assert not bench.node.connections
    bench.link.start()
    bench.link.start()
    await until(lambda: bench.link.is_usable)
    await until(lambda: len(bench.node.connections) == 1)


async def test_a_link_that_is_stopped_while_it_connects_stays_closed_until_it_is_started(bench: Bench) -> None:
    bench.node.fault = Fault.SILENT
    bench.link.start()
    await until(lambda: len(bench.node.connections) == MAX_ATTEMPTS)
    bench.link.stop()
    await until(lambda: not bench.node.connections)
    bench.node.fault = Fault.NONE
    started = asyncio.get_running_loop().time()
    bench.link.start()
    await until(lambda: bench.link.is_usable)
    assert asyncio.get_running_loop().time() - started < 0.5
    assert bench.owner.count("failed") == 0


async def test_a_link_that_is_silent_is_opened_again_once(bench: Bench) -> None:
    await bench.opened()
    for connection in bench.node.connections:
        connection.transport.pause_reading()  # whatever is sent to it is lost
    bench.ask(0, timeout_s=5.0)
    loop = asyncio.get_running_loop()
    bench.link.probe_unanswered(KeyFamily.EC, loop.time())
    assert bench.link.is_usable
    bench.link.probe_unanswered(KeyFamily.EC, loop.time())
    assert not bench.link.is_usable
    assert isinstance(bench.answers[0][1], Lost)
    bench.link.probe_unanswered(KeyFamily.EC, loop.time())
    await until(lambda: bench.link.is_usable)
    bench.link.probe_unanswered(KeyFamily.EC, loop.time())
    assert bench.link.is_usable, "a new connection is judged anew"
    bench.ask(1)
    await until(lambda: len(bench.answers) == 2)
    assert isinstance(bench.answers[1][1], Signed)
    assert bench.owner.count("lost") == 1


async def test_a_link_on_which_something_comes_is_kept(bench: Bench) -> None:
    await bench.opened()
    for number in range(5):
        asked_at = asyncio.get_running_loop().time()
        bench.ask(number)
        await until(lambda number=number: len(bench.answers) > number)  # type: ignore[misc]
        bench.link.probe_unanswered(KeyFamily.RSA, asked_at)
    assert bench.owner.count("lost") == 0
