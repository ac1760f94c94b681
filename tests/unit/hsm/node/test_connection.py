"""One connection on a transport that a test holds in its hand."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

import pytest

from hsm.node.access import AccessRule
from hsm.node.config import ListenConfig
from hsm.node.connection import BIG_READ_BYTES, MAX_INVENTORIES, NodeConnection
from hsm.node.observe import ConnectionEnd, NodeObserver
from hsm.node.requests import ServiceLimits
from hsm.node.server import Server
from hsm.node.service import Service
from hsm.shared.mtls import client_context, server_context
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import Failed, KeyEntry, KeysListed, Signed
from hsm.wire.schemes import KeyType, Scheme
from hsm.wire.session import ClientSession
from tests.support.node import PROXY, FakeBackend, NodeHome, make_home, open_token, until

EC = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")


class HandTransport(asyncio.Transport):
    """Keeps what is written; its buffer is as full as the test says."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.writes: list[bytes] = []
        self.buffered = 0
        self.calls: list[str] = []

    def write(self, data: Any) -> None:
        assert "abort" not in self.calls, "written to a dead transport"
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.calls.append("abort")

    def close(self) -> None:
        self.calls.append("close")


class Hand:
    """A connection, its server with a clock of the test's own, and a client's TLS in memory."""

    def __init__(self, home: NodeHome, limits: ListenConfig) -> None:
        loop = asyncio.get_running_loop()
        self.now = 100.0
        bounds = ServiceLimits(5000, 5.0, 30.0, 0.5)
        self.service = Service(
            [open_token("vault", FakeBackend({EC: "cheap"}), loop_queue=5000)],
            [AccessRule(PROXY, ("*",), digests=True)],
            bounds,
            NodeObserver(),
            loop,
        )
        context = server_context(home.identity("node"))
        self.server = Server(self.service, context, limits, NodeObserver(), loop, now=lambda: self.now)
        self.connection = NodeConnection(self.server)
        self.transport = HandTransport()
        self.connection.connection_made(self.transport)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(home.identity("proxy"))
        self.tls = client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.session = ClientSession()

    async def shake_hands(self) -> None:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            await self.deliver()
            self.read()

    async def deliver(self) -> None:
        """Hands the client's bytes to the connection and lets its callbacks run."""
        if data := self.outgoing.read():
            self.connection.data_received(data)
        for _ in range(4):
            await asyncio.sleep(0)

    def read(self) -> None:
        """Takes what was written, as the client."""
        for data in self.transport.writes:
            self.incoming.write(data)
        self.transport.writes.clear()
        with contextlib.suppress(ssl.SSLWantReadError):
            while plaintext := self.tls.read(65_536):
                self.session.receive_data(plaintext)

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.session.sign(EC.ski, Scheme.ECDSA_SHA256, b"d" * 32, now=0.0, deadline=5.0)
        self.tls.write(self.session.data_to_send())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("connection"))


@pytest.fixture
async def hand(home: NodeHome) -> Any:
    hand = Hand(home, ListenConfig(address="127.0.0.1:0", max_unsent_bytes=65_536))
    yield hand
    assert hand.service.stop(5.0) == ()


async def test_many_answers_are_written_at_once(hand: Hand) -> None:
    await hand.shake_hands()
    hand.ask(200)
    await hand.deliver()
    assert len(hand.transport.writes) == 1
    hand.read()
    assert sum(isinstance(event, Signed) for event in hand.session.events()) == 200


async def test_a_peer_that_does_not_read_is_not_read_from(hand: Hand) -> None:
    await hand.shake_hands()
    hand.connection.pause_writing()
    assert hand.transport.calls == ["pause"]
    assert hand.connection.overdue(hand.now + 9) is None
    assert hand.connection.overdue(hand.now + 11) is ConnectionEnd.NOT_READING
    hand.connection.resume_writing()
    assert hand.transport.calls == ["pause", "resume"]
    assert hand.connection.overdue(hand.now + 11) is None


async def test_what_waits_for_a_peer_is_bounded(hand: Hand) -> None:
    await hand.shake_hands()
    hand.transport.buffered = 65_537
    hand.ask(1)
    await hand.deliver()
    assert hand.transport.calls == ["abort"]


async def test_nothing_is_written_after_the_end(hand: Hand) -> None:
    await hand.shake_hands()
    hand.ask(10)
    data = hand.outgoing.read()
    hand.connection.data_received(data)
    hand.connection.cut(ConnectionEnd.STOPPED)
    hand.connection.cut(ConnectionEnd.IDLE)
    hand.connection.close(ConnectionEnd.IDLE)
    hand.connection.data_received(b"more")
    hand.connection.announce_draining()
    for _ in range(4):
        await asyncio.sleep(0)
    assert hand.transport.calls == ["abort"]
    hand.connection.connection_lost(None)
    assert hand.service.open_requests == 0


async def test_timeouts_by_the_servers_clock(hand: Hand) -> None:
    assert hand.connection.overdue(hand.now + 9.9) is None
    assert hand.connection.overdue(hand.now + 10.1) is ConnectionEnd.HANDSHAKE_TIMEOUT
    await hand.shake_hands()
    assert hand.connection.overdue(hand.now + 10.1) is None
    assert hand.connection.overdue(hand.now + 600.1) is ConnectionEnd.IDLE


async def test_an_orderly_close_sends_what_is_queued_and_close_notify(hand: Hand) -> None:
    await hand.shake_hands()
    hand.ask(3)
    hand.connection.data_received(hand.outgoing.read())
    await until(lambda: hand.service.open_requests == 0)
    hand.connection.close(ConnectionEnd.STOPPED)
    assert hand.transport.calls == ["close"]
    for data in hand.transport.writes:
        hand.incoming.write(data)
    hand.session.receive_data(hand.tls.read(65_536))
    assert len(hand.session.events()) == 3
    assert hand.tls.read(65_536) == b""


async def test_the_peer_is_named_by_its_address(hand: Hand) -> None:
    assert hand.connection.peer == "192.0.2.1:4711"


async def test_a_flood_is_read_one_piece_per_loop_iteration(hand: Hand) -> None:
    await hand.shake_hands()
    hand.ask(1000)
    data = hand.outgoing.read()
    assert len(data) >= BIG_READ_BYTES
    hand.connection.data_received(data)
    assert hand.transport.calls == ["pause"]
    await asyncio.sleep(0)
    assert hand.transport.calls == ["pause", "resume"]
    await until(lambda: hand.service.open_requests == 0)


async def test_a_flood_of_a_peer_that_does_not_read_stays_paused(hand: Hand) -> None:
    await hand.shake_hands()
    hand.ask(1000)
    hand.connection.data_received(hand.outgoing.read())
    hand.connection.pause_writing()
    await asyncio.sleep(0)
    assert "resume" not in hand.transport.calls


async def test_a_version_that_nobody_speaks_is_answered_before_the_end(hand: Hand) -> None:
    await hand.shake_hands()
    hand.tls.write(b"\x07\x00\x00\x00\x00\x00\x00\x05")
    await hand.deliver()
    assert hand.transport.calls == ["close"]
    for data in hand.transport.writes:
        hand.incoming.write(data)
    answer = hand.tls.read(1000)
    assert answer[:2] == b"\x01\x00"
    assert answer[4:8] == b"\x00\x00\x00\x05"
    assert answer[-1] == ErrorCode.VERSION_MISMATCH


async def test_many_inventories_at_once_are_refused(hand: Hand) -> None:
    await hand.shake_hands()
    for _ in range(MAX_INVENTORIES + 3):
        hand.session.list_keys(now=0.0, deadline=5.0)
    hand.tls.write(hand.session.data_to_send())
    await hand.deliver()
    hand.read()
    events = hand.session.events()
    assert [type(event) for event in events] == [KeysListed] * MAX_INVENTORIES + [Failed] * 3
    assert isinstance(events[-1], Failed)
    assert events[-1].code is ErrorCode.BUSY
