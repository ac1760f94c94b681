"""How a connection behaves while signatures are scarce."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from proxy.base.errors import TlsReason
from proxy.base.observe import DoorDecision
from proxy.base.policy import RoutingPolicy
from proxy.edge.door import MIN_POT, Doors
from proxy.edge.greeting import OVERLOADED_ALERT
from proxy.edge.shared import EdgeTimes
from proxy.signing.pressure import NO_PRESSURE, Pressure
from tests.support.edge import NAME, Edge, client_context, make_contexts, until

ADMITTED, RESUMABLE, SHED = DoorDecision.ADMITTED, DoorDecision.RESUMABLE, DoorDecision.SHED
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
REFUSED_WITHIN_S = 0.5
"""Ten times what it takes at most on a machine of its own."""


def hello_of_a_client() -> tuple[ssl.SSLObject, ssl.MemoryBIO, bytes]:
    """A client without a socket, where what it hears goes, and its ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(incoming, outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing.read()


def meet(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> _Seen:
    """A blocking client, gone again, that has heard an echo: the standard library's streams can't resume."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=NAME, session=session) as client,
    ):
        client.sendall(b"x")
        assert client.recv(1) == b"x"  # the tickets came before it
        return _Seen(client.session, client.session_reused)


class _Seen:
    """What is left of a client."""

    def __init__(self, session: ssl.SSLSession | None, is_resumed: bool | None) -> None:
        assert session is not None
        self.session, self.is_resumed = session, is_resumed


async def arrive(edge: Edge, count: int) -> None:
    """Wait until so many clients have said something."""
    await until(lambda: edge.observer.handshakes == count)


# nobody is short of anything


async def test_without_a_shortage_nobody_looks_at_the_hello(make_edge, monkeypatch) -> None:
    def nobody(_data: bytes) -> None:
        raise AssertionError("the hello was looked at")

    monkeypatch.setattr("proxy.edge.greeting.peek_hello", nobody)
    edge = await make_edge()
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    assert (edge.doors.asked, edge.observer.door) == ([], [])
    writer.close()


# full handshakes


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_full_handshake_is_refused_at_once_and_nothing_is_done_for_it(make_edge, version) -> None:
    edge = await make_edge()
    edge.run_short()
    began = time.monotonic()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert internal error"):
        await edge.connect(client_context(version))
    assert time.monotonic() - began < REFUSED_WITHIN_S
    assert (edge.engines, edge.signer.jobs) == (0, [])
    assert edge.observer.failed == [(NAME, TlsReason.OVERLOADED)]
    assert (edge.doors.asked, edge.observer.door) == ([("127.0.0.1", False)], [SHED])


async def test_the_refusal_is_one_record_and_then_the_end(make_edge) -> None:
    edge = await make_edge()
    edge.run_short()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello_of_a_client()[2])
    assert await asyncio.wait_for(reader.read(), 5) == OVERLOADED_ALERT
    writer.write(b"and what the client says to that is not read, but taken" * 1000)
    await writer.drain()  # which a reset would not let it
    writer.close()
    await until(lambda: not edge.listener.connections)


async def test_curl_says_what_happened(make_edge) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    edge = await make_edge()
    edge.run_short()
    command = ("curl", "--silent", "--show-error", "--insecure", f"https://127.0.0.1:{edge.port}/")
    ran = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=10, check=False)
    assert ran.returncode == 35
    assert "internal error" in ran.stderr


async def test_who_is_admitted_gets_a_signature_and_is_not_judged_again(make_edge) -> None:
    edge = await make_edge()
    edge.run_short(room=1)
    reader, writer = await edge.connect()
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    writer.close()
    assert (edge.observer.door, len(edge.signer.jobs)) == ([ADMITTED], 1)


async def test_a_shortage_that_begins_behind_the_hello_still_asks_for_the_signature(make_edge) -> None:
    edge = await make_edge()
    _, _, hello = hello_of_a_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello[:100])
    await until(lambda: edge.engines == 1)
    edge.run_short()
    writer.write(hello[100:])
    await asyncio.wait_for(reader.read(), 5)
    assert edge.observer.failed == [(NAME, TlsReason.OVERLOADED)]
    assert (edge.observer.door, edge.signer.jobs) == ([SHED], [])
    writer.close()


async def test_a_crowd_before_the_real_door_gets_what_can_be_signed_and_the_rest_hears_so_at_once(make_edge) -> None:
    edge = await make_edge(doors=Doors(RoutingPolicy()))
    edge.pressure = Pressure(is_short=True, rate_per_s=10.0, wait_s=1.0)
    began = time.monotonic()
    met = await asyncio.gather(*(edge.connect() for _ in range(60)), return_exceptions=True)
    took = time.monotonic() - began
    let_in = [each for each in met if isinstance(each, tuple)]
    assert 1 <= len(let_in) <= 10.0 * took + 3 * MIN_POT
    assert len(let_in) == len(edge.signer.jobs) == edge.engines == edge.observer.door.count(ADMITTED)
    assert all(isinstance(each, ssl.SSLError | tuple) for each in met)
    assert edge.observer.failed == [(NAME, TlsReason.OVERLOADED)] * (60 - len(let_in))
    for _, writer in let_in:
        writer.close()


# sessions


@pytest.mark.parametrize("version", VERSIONS)
async def test_sessions_resume_in_the_middle_of_a_shortage(make_edge, version) -> None:
    edge = await make_edge()
    context = client_context(version)
    first = await asyncio.to_thread(meet, edge.port, context)
    edge.run_short()
    second = await asyncio.to_thread(meet, edge.port, context, first.session)
    assert second.is_resumed
    assert (edge.observer.door, len(edge.signer.jobs)) == ([RESUMABLE], 1)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ticket_of_somebody_else_does_not_get_past_the_door(make_edge, version, tmp_path) -> None:
    elsewhere, edge = await make_edge(site=make_contexts(tmp_path)), await make_edge()
    context = client_context(version)
    foreign = await asyncio.to_thread(meet, elsewhere.port, context)
    edge.run_short()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert internal error"):
        await asyncio.to_thread(meet, edge.port, context, foreign.session)
    assert edge.observer.door == [RESUMABLE, SHED]
    assert edge.observer.failed == [(NAME, TlsReason.OVERLOADED)]
    assert edge.signer.jobs == []
    edge.doors.room = 1
    again = await asyncio.to_thread(meet, edge.port, context, foreign.session)
    assert not again.is_resumed
    assert edge.observer.door[2:] == [RESUMABLE, ADMITTED]


# hellos in pieces


async def test_a_hello_in_pieces_is_kept_until_it_is_whole(make_edge) -> None:
    edge = await make_edge()
    edge.run_short(room=1)
    client, incoming, hello = hello_of_a_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    for at in range(0, len(hello) - 1, 100):
        writer.write(hello[at : min(at + 100, len(hello) - 1)])
        await asyncio.sleep(0.002)  # so that they come one by one, mostly
    await arrive(edge, 1)
    assert (edge.engines, edge.doors.asked) == (0, [])
    writer.write(hello[-1:])
    while True:
        incoming.write(await asyncio.wait_for(reader.read(65_536), 5))
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            continue
    assert (edge.engines, edge.observer.door) == (1, [ADMITTED])
    writer.close()


async def test_a_hello_in_many_records_is_shed_like_any_other(make_edge) -> None:
    edge = await make_edge()
    edge.run_short()
    _, _, hello = hello_of_a_client()
    pieces = [hello[at : at + 50] for at in range(5, len(hello), 50)]
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces))
    assert await asyncio.wait_for(reader.read(), 5) == OVERLOADED_ALERT
    assert edge.engines == 0
    writer.close()


async def test_the_end_of_a_shortage_lets_in_what_was_kept(make_edge) -> None:
    edge = await make_edge()
    edge.run_short()
    _, _, hello = hello_of_a_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello[:100])
    await arrive(edge, 1)
    edge.pressure = NO_PRESSURE
    writer.write(hello[100:])
    assert (await asyncio.wait_for(reader.read(5), 5))[:1] == b"\x16"  # a ServerHello
    assert edge.observer.door == []
    writer.close()


async def test_half_a_hello_is_closed_at_the_deadline(make_edge) -> None:
    edge = await make_edge(EdgeTimes(handshake_s=0.1))
    edge.run_short()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello_of_a_client()[2][:100])
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 5)
    await until(lambda: not edge.listener.connections)
    assert (edge.observer.failed, edge.engines) == ([("", TlsReason.TIMEOUT)], 0)
    writer.close()


async def test_half_a_hello_and_then_the_end_is_counted_once(make_edge) -> None:
    edge = await make_edge()
    edge.run_short()
    _, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello_of_a_client()[2][:100])
    await arrive(edge, 1)
    writer.close()
    await until(lambda: not edge.listener.connections)
    assert (edge.observer.failed, edge.engines) == ([("", TlsReason.CLIENT_CLOSED)], 0)


async def test_a_drain_waits_for_a_client_that_is_in_the_middle_of_its_hello(make_edge) -> None:
    edge = await make_edge()
    edge.run_short(room=1)
    _, _, hello = hello_of_a_client()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(hello[:100])
    await arrive(edge, 1)
    drain = asyncio.ensure_future(edge.listener.drain(10))
    await asyncio.sleep(0)
    writer.write(hello[100:])
    assert (await asyncio.wait_for(reader.read(5), 5))[:1] == b"\x16"
    writer.close()
    assert await asyncio.wait_for(drain, 5) == 0


async def test_what_is_no_hello_is_the_engines_to_refuse(make_edge) -> None:
    edge = await make_edge()
    edge.run_short()
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(reader.read(), 5)
    assert (edge.observer.failed, edge.observer.door) == ([("", TlsReason.NOT_TLS)], [])
    writer.close()
