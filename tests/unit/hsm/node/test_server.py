"""The node's listener over real sockets and mutual TLS."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from hsm.backends.base import Backend
from hsm.backends.vault import VaultBackend, open_store
from hsm.node.access import AccessRule
from hsm.node.config import ListenConfig
from hsm.node.connection import NodeConnection
from hsm.node.observe import ConnectionEnd, NodeObserver
from hsm.node.requests import ServiceLimits
from hsm.node.server import Server
from hsm.node.service import Service
from hsm.shared.exposition import ListenError
from hsm.shared.mtls import client_context, server_context
from hsm.store.store import Store
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import DrainingAnnounced, Failed, KeyEntry, KeysChanged, KeysListed, Signed
from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from tests.support.node import PATIENCE_S, PROXY, FakeBackend, Link, NodeHome, make_home, open_token, until, verify
from tests.support.tls_messages import key_exchange

EC = KeyEntry(b"\x01" * 20, KeyType.P256, "www-ec")
RSA = KeyEntry(b"\x02" * 20, KeyType.RSA_2048, "www-rsa")
TYPES = (KeyType.P256, KeyType.P384, KeyType.ED25519, KeyType.RSA_2048)
KEY_OF = {KeyFamily.EC: ("www-p256", "www-p384"), KeyFamily.ED25519: ("www-ed25519",), KeyFamily.RSA: ("www-rsa-2048",)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("server"), TYPES)


class Ear(NodeObserver):
    """Counts why connections ended."""

    def __init__(self) -> None:
        self.ends: Counter[ConnectionEnd] = Counter()
        self.opened = 0

    def connection_opened(self) -> None:
        self.opened += 1

    def connection_ended(self, reason: ConnectionEnd) -> None:
        self.ends[reason] += 1


class Started:
    """A server that runs, and what it needs."""

    def __init__(self, home: NodeHome, backend: Backend, limits: ListenConfig, queue: int) -> None:
        loop = asyncio.get_running_loop()
        self.home = home
        self.ear = Ear()
        self.backend = backend
        bounds = ServiceLimits(limits.max_in_flight_per_connection, 5.0, 30.0, 0.002)
        self.service = Service(
            [open_token("vault", backend, places=2, queue=queue)],
            [AccessRule(PROXY, ("www-*",), digests=True)],
            bounds,
            self.ear,
            loop,
        )
        self.server = Server(self.service, server_context(home.identity("node")), limits, self.ear, loop)
        self.address = ""

    async def link(self, who: str = "proxy", context: ssl.SSLContext | None = None) -> Link:
        return await Link.open(self.address, self.home.identity(who), context)


Start = Callable[..., Awaitable[Started]]


@pytest.fixture
async def start(home: NodeHome) -> AsyncIterator[Start]:
    running: list[Started] = []
    stores: list[Store] = []

    async def make(backend: Backend | None = None, *, queue: int = 64, **limits: object) -> Started:
        if backend is None:
            store = open_store(home.store, key_file=home.key_file)
            stores.append(store)
            backend = VaultBackend(store)
        config = msgspec.convert({"address": "127.0.0.1:0", **limits}, ListenConfig)
        started = Started(home, backend, config, queue)
        started.address = await started.server.start()
        running.append(started)
        return started

    yield make
    for started in running:
        if isinstance(started.backend, FakeBackend):
            started.backend.gate.set()
        await started.server.stop()
        assert started.service.stop(5.0) == ()
        assert started.server.open_connections == 0
    for store in stores:
        store.close()


def fake() -> FakeBackend:
    return FakeBackend({EC: "cheap", RSA: "dear"})


@pytest.mark.parametrize("scheme", list(Scheme), ids=lambda scheme: scheme.value)
async def test_every_scheme_signs_with_a_real_key(start: Start, home: NodeHome, scheme: Scheme) -> None:
    node = await start()
    link = await node.link()
    message = key_exchange(randoms=os.urandom(64))
    for label in KEY_OF[scheme.family]:
        ski, public = home.keys[label]
        answer = await link.ask(ski, scheme, message)
        assert isinstance(answer, Signed)
        verify(public, scheme, answer.signature, message)
    await link.close()


async def test_the_inventory_is_what_the_client_may_use(start: Start, home: NodeHome) -> None:
    node = await start()
    link = await node.link()
    listed = await link.greet()
    assert isinstance(listed, KeysListed)
    assert {key.label for key in listed.keys} == {f"www-{type_.value}" for type_ in TYPES}
    await link.close()
    stranger = await node.link("stranger")
    listed = await stranger.greet()
    assert isinstance(listed, KeysListed)
    assert listed.keys == ()
    await stranger.close()


async def test_denied_and_unknown_are_told_apart_with_a_detail(start: Start, home: NodeHome) -> None:
    node = await start()
    link, stranger = await node.link(), await node.link("stranger")
    await link.greet()
    await stranger.greet()
    mail = await link.ask(home.ski("mail"), Scheme.ECDSA_SHA256, b"x")
    unknown = await link.ask(b"\x77" * 20, Scheme.ECDSA_SHA256, b"x")
    strange = await stranger.ask(home.ski("www-p256"), Scheme.ECDSA_SHA256, b"x")
    assert isinstance(mail, Failed)
    assert isinstance(unknown, Failed)
    assert isinstance(strange, Failed)
    assert (mail.code, mail.detail) == (ErrorCode.DENIED, "no access rule lets this client use this key")
    assert (unknown.code, unknown.detail) == (ErrorCode.KEY_NOT_FOUND, "this node has no such key")
    assert (strange.code, strange.detail) == (ErrorCode.DENIED, "no access rule names this client")
    await link.close()
    await stranger.close()


async def test_a_client_without_certificate_gets_nothing(start: Start, home: NodeHome) -> None:
    node = await start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(home.path / "ca.pem")
    await refused(node, context)


async def test_a_client_of_another_ca_gets_nothing(start: Start, home: NodeHome) -> None:
    node = await start()
    await refused(node, client_context(home.identity("foreign")))


async def refused(node: Started, context: ssl.SSLContext) -> None:
    # In TLS 1.3 the client's handshake ends before the node has looked at its certificate.
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        await (await node.link(context=context)).greet()
    await until(lambda: node.ear.ends[ConnectionEnd.HANDSHAKE_FAILED] == 1)
    assert node.server.open_connections == 0


async def test_plain_keyless_clients_are_served(start: Start, home: NodeHome) -> None:
    """TLS 1.2 with AES-256-GCM, no extension items, messages padded to 1024 bytes."""
    node = await start()
    context = client_context(home.identity("proxy"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
    link = await node.link(context=context)
    ski, public = home.keys["www-p256"]
    link.writer.write(plain_request(7, ski, 0x15, Scheme.ECDSA_SHA256.payload_of(b"hello")))
    opcode, payload = await plain_answer(link, 7)
    assert opcode == 0xF0
    verify(public, Scheme.ECDSA_SHA256, payload, b"hello")
    for request_id, key, expected in ((8, home.ski("mail"), 2), (9, b"\x00" * 20, 2)):
        link.writer.write(plain_request(request_id, key, 0x15, b"d" * 32))
        assert await plain_answer(link, request_id) == (0xFF, bytes((expected,)))
    link.writer.write(plain_request(10, ski, 0x01, b"d" * 256))
    assert await plain_answer(link, 10) == (0xFF, b"\x05")
    node.server.announce_keys(5)
    await node.server.drain(1.0)
    assert node.server.open_connections == 1
    await link.close()


def plain_request(request_id: int, ski: bytes, opcode: int, payload: bytes) -> bytes:
    body = b"\x11\x00\x01" + bytes((opcode,)) + b"\x04\x00\x14" + ski
    body += b"\x12" + len(payload).to_bytes(2, "big") + payload
    space = 1024 - 8 - len(body) - 3
    body += b"\x20" + space.to_bytes(2, "big") + bytes(space)
    return b"\x01\x00" + len(body).to_bytes(2, "big") + request_id.to_bytes(4, "big") + body


async def plain_answer(link: Link, request_id: int) -> tuple[int, bytes]:
    head = await asyncio.wait_for(link.reader.readexactly(8), PATIENCE_S)
    assert head[:2] == b"\x01\x00"
    assert int.from_bytes(head[4:], "big") == request_id
    body = await link.reader.readexactly(int.from_bytes(head[2:4], "big"))
    items: dict[int, bytes] = {}
    while body:
        length = int.from_bytes(body[1:3], "big")
        items[body[0]] = body[3 : 3 + length]
        body = body[3 + length :]
    assert all(tag < 0x80 for tag in items), "no extension items for a plain client"
    return items[0x11][0], items.get(0x12, b"")


async def test_a_thousand_pipelined_requests_are_all_answered(start: Start, home: NodeHome) -> None:
    node = await start()
    link = await node.link()
    ski, public = home.keys["www-p256"]
    messages = {link.sign(ski, Scheme.ECDSA_SHA256, b"%d" % n): b"%d" % n for n in range(1000)}
    link.flush()
    while len(link.events) < 1000:
        assert await link.receive()
    for event in link.events[::50]:
        assert isinstance(event, Signed)
        verify(public, Scheme.ECDSA_SHA256, event.signature, messages[event.request_id])
    assert len({event.request_id for event in link.events if isinstance(event, Signed)}) == 1000
    await link.close()


async def test_overload_is_said_quickly_and_the_node_recovers(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend, queue=4)
    link = await node.link()
    await link.greet()
    asked = [link.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x") for _ in range(50)]
    begin = link.now()
    link.flush()
    await until_events(link, Failed, 44)
    assert link.now() - begin < 1.0
    busy = [event for event in link.events if isinstance(event, Failed)]
    assert all(event.code is ErrorCode.BUSY for event in busy)
    assert all(event.retry_after_s is not None and event.queue_depth == 4 for event in busy)
    backend.gate.set()
    await until_events(link, Signed, 6)
    assert len(asked) == 50
    assert isinstance(await link.ask(RSA.ski, Scheme.RSA_PSS_SHA256, b"x"), Signed)
    await link.close()


async def until_events(link: Link, type_: type[object], count: int) -> None:
    while sum(isinstance(event, type_) for event in link.events) < count:
        assert await link.receive()


async def test_a_cancel_frees_the_queue(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend, queue=1)
    link = await node.link()
    await link.greet()
    asked = [link.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x") for _ in range(3)]
    link.flush()
    await until(lambda: node.service.open_requests == 3)
    link.session.cancel(asked[2])
    link.flush()
    await until(lambda: node.service.open_requests == 2)
    backend.gate.set()
    assert isinstance(await link.answer(asked[0]), Signed)
    assert isinstance(await link.answer(asked[1]), Signed)
    await link.close()


async def test_a_lost_connection_drops_its_requests(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend)
    link = await node.link()
    for _ in range(10):
        link.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x")
    link.flush()
    await until(lambda: node.service.open_requests == 10)
    await link.close()
    await until(lambda: node.service.open_requests == 0 and node.server.open_connections == 0)
    backend.gate.set()
    await until(lambda: backend.signed == 2, "the two that were under way")


async def test_a_reader_that_does_not_read_is_cut_and_others_go_on(start: Start) -> None:
    node = await start(fake(), send_timeout_s=0.4, max_unsent_bytes=1_048_576)
    host, port = node.address.rsplit(":", 1)
    raw = socket.create_connection((host, int(port)))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    # A stream reader with a tiny limit stops reading; pings with big payloads fill the node's side.
    reader, writer = await asyncio.open_connection(
        sock=raw, ssl=client_context(node.home.identity("proxy")), server_hostname="localhost", limit=1024
    )
    slow, good = Link(reader, writer), await node.link()
    now = slow.now()
    for _ in range(400):
        slow.session.ping(b"p" * 60_000, now=now, deadline=now + 60)
        slow.flush()
    await until(lambda: node.ear.ends[ConnectionEnd.NOT_READING] == 1)
    assert isinstance(await good.ask(EC.ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    await slow.close()
    await good.close()


async def test_too_many_connections_are_closed_at_once(start: Start) -> None:
    node = await start(fake(), max_connections=2)
    first, second = await node.link(), await node.link()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await node.link()
    assert node.ear.ends[ConnectionEnd.REFUSED_FULL] == 1
    assert isinstance(await first.ask(EC.ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    await second.close()
    await until(lambda: node.server.open_connections == 1)
    third = await node.link()
    assert isinstance(await third.ask(EC.ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    await first.close()
    await third.close()


async def test_strangers_that_show_no_certificate_do_not_keep_proxies_out(start: Start) -> None:
    node = await start(fake(), max_connections=3)
    first = await node.link()
    host, port = node.address.rsplit(":", 1)
    strangers = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
    await until(lambda: node.server.open_connections == 3)
    second = await node.link()
    assert isinstance(await second.ask(EC.ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    assert isinstance(await first.ask(EC.ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    await until(lambda: node.ear.ends == {ConnectionEnd.GAVE_WAY: 1})
    assert node.server.open_connections == 3
    for _reader, writer in strangers:
        writer.transport.abort()
    await first.close()
    await second.close()


async def test_a_handshake_that_stalls_is_cut(start: Start) -> None:
    node = await start(fake(), handshake_timeout_s=0.2)
    host, port = node.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"\x16\x03")
    assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
    assert node.ear.ends[ConnectionEnd.HANDSHAKE_TIMEOUT] == 1
    writer.close()


async def test_an_idle_connection_is_closed_but_not_while_it_waits(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend, idle_timeout_s=0.2)
    idle, waiting = await node.link(), await node.link()
    request_id = waiting.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x")
    waiting.flush()
    with pytest.raises((ConnectionError, AssertionError)):
        await idle.answer(1)
    assert node.ear.ends == {ConnectionEnd.IDLE: 1}
    backend.gate.set()
    assert isinstance(await waiting.answer(request_id), Signed)
    await waiting.close()


async def test_garbage_inside_tls_ends_the_connection(start: Start) -> None:
    node = await start(fake())
    link = await node.link()
    link.writer.write(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")
    await until(lambda: node.ear.ends[ConnectionEnd.PROTOCOL] == 1)
    assert node.server.open_connections == 0
    await link.close()


async def test_a_drain_announces_itself_and_finishes_what_is_in_flight(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend)
    link, idle = await node.link(), await node.link()
    await link.greet()
    taken = link.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x")
    link.flush()
    await until(lambda: node.service.open_requests == 1)
    drained = asyncio.create_task(node.server.drain(PATIENCE_S))
    await until_events(link, DrainingAnnounced, 1)
    late = await link.ask(EC.ski, Scheme.ECDSA_SHA256, b"x")
    assert isinstance(late, Failed)
    assert late.code is ErrorCode.DRAINING
    with pytest.raises(ConnectionError):
        await node.link()
    assert not drained.done()
    backend.gate.set()
    assert isinstance(await link.answer(taken), Signed)
    assert await drained
    await node.server.stop()
    assert await asyncio.wait_for(idle.reader.read(), PATIENCE_S) == b""
    assert node.ear.ends == {ConnectionEnd.STOPPED: 2}
    await link.close()
    await idle.close()


async def test_a_drain_gives_up_in_time(start: Start) -> None:
    backend = fake()
    backend.gate.clear()
    node = await start(backend)
    link = await node.link()
    link.sign(RSA.ski, Scheme.RSA_PSS_SHA256, b"x")
    link.flush()
    await until(lambda: node.service.open_requests == 1)
    begin = link.now()
    assert not await node.server.drain(0.1)
    await node.server.stop()
    assert link.now() - begin < 2.0
    await link.close()


async def test_changed_keys_are_announced(start: Start) -> None:
    node = await start(fake())
    link = await node.link()
    await link.greet()
    node.server.announce_keys(42)
    await until_events(link, KeysChanged, 1)
    assert link.events[-1] == KeysChanged(42)
    await link.close()


async def test_an_address_in_use_is_a_clear_error(start: Start) -> None:
    node = await start(fake())
    with pytest.raises(ListenError, match=f"can't listen on {node.address}: .*; is another program using it\\?"):
        await start(fake(), address=node.address)


async def test_connections_that_come_and_go_leave_nothing_behind(start: Start) -> None:
    node = await start(fake())
    context = client_context(node.home.identity("proxy"))
    for number in range(90):
        link = await node.link(context=context)
        for _ in range(5):
            link.sign(EC.ski, Scheme.ECDSA_SHA256, b"x")
        link.flush()
        if number % 3 == 1:
            await link.receive()
        if number % 3 == 2:
            await link.greet()
        await link.close()
    await until(lambda: node.server.open_connections == 0)
    assert node.service.open_requests == 0
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, NodeConnection)]
    assert node.ear.ends == {ConnectionEnd.PEER_CLOSED: 90}
