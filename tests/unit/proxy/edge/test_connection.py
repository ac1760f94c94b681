from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
import weakref

import greenlet
import pytest

from proxy.base.errors import SigningReason, TlsReason
from proxy.base.jobs import CONNECTION_INFO, ConnectionInfo
from proxy.edge.connection import EdgeConnection
from proxy.edge.phase import Phase
from proxy.edge.shared import EdgeTimes
from proxy.tls.engine import TlsEngine
from tests.support.edge import NAME, client_context, until


async def test_bytes_go_through_both_ways_in_both_versions(make_edge) -> None:
    edge = await make_edge()
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        reader, writer = await edge.connect(client_context(version))
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.close()
        await writer.wait_closed()
    assert [version for _, version, _ in edge.observer.started] == ["TLSv1.2", "TLSv1.3"]
    await until(lambda: len(edge.observer.ended) == 2)
    assert edge.observer.ended == [None, None]
    assert edge.signer.jobs[0].site == NAME
    assert edge.signer.jobs[0].client_ip == "127.0.0.1"


async def test_the_protocol_learns_who_its_client_is(make_edge) -> None:
    edge = await make_edge()
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    info = edge.protocol.transport.get_extra_info(CONNECTION_INFO)
    assert isinstance(info, ConnectionInfo)
    assert (info.site, info.server_name, info.listener, info.client_ip) == (NAME, NAME, "https", "127.0.0.1")
    assert info.client_port == writer.get_extra_info("sockname")[1]
    assert (info.local_port, info.tls_version, info.is_resumed) == (edge.port, "TLSv1.3", False)
    writer.close()


async def test_a_job_has_the_nearer_of_the_two_deadlines(make_edge) -> None:
    loop = asyncio.get_running_loop()
    for times, expected in ((EdgeTimes(handshake_s=3, job_s=9), 3), (EdgeTimes(handshake_s=9, job_s=2), 2)):
        edge = await make_edge(times)
        _, writer = await edge.connect()
        assert edge.signer.jobs[0].deadline == pytest.approx(loop.time() + expected, abs=1)
        writer.close()


async def test_a_signer_may_answer_before_submit_returns(make_edge) -> None:
    edge = await make_edge()
    edge.signer.answers_within_submit = True
    reader, writer = await edge.connect()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (SigningReason.NO_NODE, TlsReason.SIGNING_FAILED),
        (SigningReason.QUEUE_FULL, TlsReason.OVERLOADED),
        (SigningReason.SHED, TlsReason.OVERLOADED),
    ],
)
async def test_without_a_signature_the_client_gets_an_alert(make_edge, reason, expected) -> None:
    edge = await make_edge()
    edge.signer.holds = True
    client = asyncio.ensure_future(edge.connect())
    await until(lambda: bool(edge.signer.held))
    edge.signer.refuse(reason)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert"):
        await client
    assert edge.observer.failed == [(NAME, expected)]


async def test_hundreds_of_clients_that_vanish_mid_signature_leave_nothing(make_edge) -> None:
    edge = await make_edge()
    count = 300
    engines = weakref.WeakSet[TlsEngine]()
    make_engine = edge.listener.services.new_engine
    object.__setattr__(edge.listener.services, "new_engine", lambda: _noted(make_engine(), engines))
    greenlets = []
    for _ in range(2):
        edge.signer.holds = True
        clients = [asyncio.ensure_future(edge.connect()) for _ in range(count)]
        await until(lambda: len(edge.signer.held) == count, "all wait for a signature")
        connections = weakref.WeakSet(edge.listener.connections)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await until(lambda: not edge.listener.connections, "every connection is gone")
        assert all(held.is_cancelled for held in edge.signer.held)
        edge.signer.release()
        await asyncio.sleep(0)
        gc.collect()
        assert len(connections) == 0
        assert len(engines) == 0
        greenlets.append(_greenlets())
    assert greenlets[1] <= greenlets[0]  # those of the first round are used again, or gone
    assert edge.observer.failed == [(NAME, TlsReason.CLIENT_CLOSED)] * count * 2
    edge.signer.holds = False
    reader, writer = await edge.connect()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()


def _noted(engine: TlsEngine, engines: weakref.WeakSet[TlsEngine]) -> TlsEngine:
    engines.add(engine)
    return engine


def _greenlets() -> int:
    return sum(1 for each in gc.get_objects() if isinstance(each, greenlet.greenlet) and not each.dead)


async def test_a_client_that_says_nothing_is_closed_at_the_deadline(make_edge) -> None:
    edge = await make_edge(EdgeTimes(handshake_s=0.1))
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    assert await asyncio.wait_for(_read_to_end(reader), 5) == b""
    assert edge.observer.failed == [("", TlsReason.TIMEOUT)]
    writer.close()


async def test_a_handshake_that_waits_too_long_for_its_signature_is_cut(make_edge) -> None:
    edge = await make_edge(EdgeTimes(handshake_s=0.15))
    edge.signer.holds = True
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await edge.connect()
    await until(lambda: not edge.listener.connections)
    assert edge.observer.failed == [(NAME, TlsReason.TIMEOUT)]
    assert edge.signer.held[0].is_cancelled


async def test_what_is_no_tls_is_counted_as_such(make_edge) -> None:
    edge = await make_edge()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(_read_to_end(reader), 5)
    assert edge.observer.failed == [("", TlsReason.NOT_TLS)]
    writer.close()


async def test_a_client_that_closes_without_close_notify_is_truncated(make_edge) -> None:
    edge = await make_edge()
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    writer.transport.abort()
    await until(lambda: bool(edge.observer.ended))
    assert edge.observer.ended == [TlsReason.TRUNCATED]
    assert len(edge.protocol.lost) == 1


async def test_close_sends_everything_and_then_close_notify(make_edge) -> None:
    edge = await make_edge()
    # A blocking client: uvloop's own TLS drops what it has not delivered when close_notify comes.
    client = asyncio.get_running_loop().run_in_executor(None, _read_slowly, edge.port)
    await until(lambda: bool(edge.protocols))
    edge.protocol.transport.write(b"bye " * 2_000_000)
    edge.protocol.transport.close()
    edge.protocol.transport.write(b"too late")
    assert await client == b"bye " * 2_000_000
    assert edge.protocol.lost == [None]
    await until(lambda: bool(edge.observer.ended))
    assert edge.observer.ended == [None]


async def test_the_clients_goodbye_reaches_the_protocol_before_its_end(make_edge) -> None:
    edge = await make_edge()
    _, writer = await edge.connect()
    writer.write(b"last words")
    writer.close()
    await until(lambda: bool(edge.protocols and edge.protocol.lost))
    assert bytes(edge.protocol.received) == b"last words"
    assert edge.protocol.had_eof
    assert edge.protocol.lost == [None]


async def test_a_client_that_reads_nothing_after_the_end_is_cut(make_edge) -> None:
    edge = await make_edge(EdgeTimes(linger_s=0.2))
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    writer.transport.pause_reading()
    edge.protocol.transport.write(b"x" * 20_000_000)
    edge.protocol.transport.close()
    connection = next(iter(edge.listener.connections))
    assert connection.phase is Phase.LINGERING
    await until(lambda: not edge.listener.connections, "the connection was cut")
    writer.transport.abort()


async def test_a_slow_client_pauses_the_protocol_and_resumes_it(make_edge) -> None:
    edge = await make_edge()
    reader, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    protocol = edge.protocol
    writer.transport.pause_reading()
    protocol.transport.set_write_buffer_limits(high=100_000)
    sent = 0
    while not protocol.is_paused:
        protocol.transport.write(b"y" * 65_536)
        sent += 65_536
        await asyncio.sleep(0)
        assert sent < 100_000_000
    assert protocol.transport.get_write_buffer_size() > 100_000
    writer.transport.resume_reading()
    assert len(await reader.readexactly(sent)) == sent
    await until(lambda: not protocol.is_paused, "writing was resumed")
    writer.close()


async def test_a_protocol_that_does_not_read_stops_the_client(make_edge) -> None:
    edge = await make_edge()
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    protocol = edge.protocol
    protocol.echoes = False
    protocol.transport.pause_reading()
    payload = b"z" * 30_000_000
    writer.write(payload)
    for _ in range(50):  # long enough for data to come, if it did
        await asyncio.sleep(0.001)
    assert not protocol.received
    assert not protocol.transport.is_reading()
    protocol.transport.resume_reading()
    await until(lambda: len(protocol.received) == len(payload), "everything arrived")
    assert bytes(protocol.received) == payload
    writer.close()


async def test_a_protocol_that_pauses_and_resumes_does_not_undo_the_bound_of_unread_output(make_edge) -> None:
    edge = await make_edge()

    class Talkative(edge.new_protocol):  # type: ignore[name-defined,misc]
        def data_received(self, data: bytes) -> None:
            self.received += data
            self.transport.write(bytes(60_000))

    edge.new_protocol = Talkative
    reader, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    [connection] = edge.listener.connections
    writer.transport.pause_reading()
    sent = 0
    while not connection._input_is_stopped:
        writer.write(b"q")
        sent += 1
        await asyncio.sleep(0)
        assert sent < 100_000
    received = len(edge.protocol.received)
    edge.protocol.transport.pause_reading()
    edge.protocol.transport.resume_reading()
    writer.write(b"more")
    for _ in range(50):  # long enough for data to come, if it did
        await asyncio.sleep(0.001)
    assert len(edge.protocol.received) == received
    writer.transport.resume_reading()
    while len(edge.protocol.received) < sent + 4:
        assert await asyncio.wait_for(reader.read(1_000_000), 10)
    writer.close()


async def test_pausing_within_data_received_holds_what_is_decrypted_already(make_edge) -> None:
    edge = await make_edge()

    class OneAtATime(edge.new_protocol):  # type: ignore[name-defined,misc]
        def data_received(self, data: bytes) -> None:
            self.pieces = [*getattr(self, "pieces", []), data]
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(0.001, self.transport.resume_reading)

    edge.new_protocol = OneAtATime
    _, writer = await edge.connect()
    payload = bytes(range(256)) * 2000
    writer.write(payload)
    await until(lambda: bool(edge.protocols) and len(b"".join(getattr(edge.protocol, "pieces", []))) == len(payload))
    assert b"".join(edge.protocol.pieces) == payload
    writer.write(b"and goodbye")
    writer.close()
    await until(lambda: edge.protocol.had_eof)
    assert edge.protocol.pieces[-1] == b"and goodbye"


async def test_a_defect_above_costs_one_connection_only(make_edge) -> None:
    edge = await make_edge()

    class Broken(edge.new_protocol):  # type: ignore[name-defined,misc]
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a defect")

    healthy_reader, healthy = await edge.connect()
    await until(lambda: len(edge.protocols) == 1)
    edge.new_protocol = Broken
    reader, writer = await edge.connect()
    writer.write(b"x")
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    healthy.write(b"fine")
    assert await healthy_reader.readexactly(4) == b"fine"
    assert edge.observer.crashes == ["edge_connection"]
    edge.observer.crashes.clear()
    writer.close()
    healthy.close()


async def test_a_protocol_that_fails_at_its_end_does_not_keep_the_place(make_edge) -> None:
    edge = await make_edge()

    class BadLoser(edge.new_protocol):  # type: ignore[name-defined,misc]
        def connection_lost(self, exc: Exception | None) -> None:
            raise RuntimeError("a defect")

    edge.new_protocol = BadLoser
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    writer.transport.abort()
    await until(lambda: edge.listener.budget.taken == 0, "the place is free")
    assert edge.observer.crashes == ["edge_connection"]
    edge.observer.crashes.clear()


async def test_a_connection_frees_itself_without_the_collector(make_edge) -> None:
    edge = await make_edge()
    gc.collect()
    gc.disable()
    try:
        _, writer = await edge.connect()
        await until(lambda: bool(edge.protocols))
        connection = weakref.ref(next(iter(edge.listener.connections)))
        edge.protocols.clear()
        writer.close()
        await writer.wait_closed()
        await until(lambda: connection() is None, "the connection was freed")
    finally:
        gc.enable()


def test_an_event_that_nobody_knows_is_a_defect() -> None:
    connection = EdgeConnection.__new__(EdgeConnection)
    with pytest.raises(TypeError, match="object"):
        connection._handle(object())  # type: ignore[arg-type]


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionError:
        pass
    return data


def _read_slowly(port: int) -> bytes:
    data = b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        client_context().wrap_socket(plain, server_hostname=NAME) as client,
    ):
        while piece := client.recv(65536):
            data += piece
            time.sleep(0.001)
        client.unwrap()
    return data
