from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.base.errors import TlsReason
from tests.support.edge import until


async def test_more_clients_than_allowed_are_closed_at_once(make_edge) -> None:
    edge = await make_edge(max_connections=2)
    kept = [await edge.connect() for _ in range(2)]
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    assert await asyncio.wait_for(reader.read(1), 5) == b""
    assert (edge.observer.refused, edge.listener.budget.taken) == (1, 2)
    writer.close()
    for _, client in kept:
        client.close()
    await until(lambda: edge.listener.budget.taken == 0)
    _, writer = await edge.connect()  # there is room again
    writer.close()


async def test_small_writes_are_sent_at_once(make_edge) -> None:
    edge = await make_edge()
    _, writer = await edge.connect()
    await until(lambda: bool(edge.protocols))
    raw = edge.protocol.transport.get_extra_info("socket")
    assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    writer.close()


async def test_a_drain_closes_the_silent_waits_for_the_busy_and_takes_no_new_clients(make_edge) -> None:
    edge = await make_edge()
    silent, silent_writer = await asyncio.open_connection("127.0.0.1", edge.port)
    reader, writer = await edge.connect()
    await until(lambda: len(edge.listener.connections) == 2 and bool(edge.protocols))
    drain = asyncio.ensure_future(edge.listener.drain(10))
    assert await asyncio.wait_for(silent.read(1), 5) == b""
    writer.write(b"still served")
    assert await reader.readexactly(12) == b"still served"
    assert not drain.done()
    edge.bound.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", edge.port)
    writer.close()
    assert await asyncio.wait_for(drain, 5) == 0
    silent_writer.close()


async def test_who_does_not_finish_in_time_is_cut_with_a_goodbye(make_edge) -> None:
    edge = await make_edge()
    clients = [await edge.connect() for _ in range(3)]
    await until(lambda: len(edge.protocols) == 3)
    assert await edge.listener.drain(0.05) == 3
    for reader, writer in clients:
        assert await asyncio.wait_for(reader.read(), 5) == b""  # no error: close_notify came before the end
        writer.close()
    assert edge.observer.ended == [TlsReason.OTHER] * 3
    assert all(len(protocol.lost) == 1 for protocol in edge.protocols)


async def test_a_drain_waits_for_a_handshake_that_has_begun(make_edge) -> None:
    edge = await make_edge()
    edge.signer.holds = True
    client = asyncio.ensure_future(edge.connect())
    await until(lambda: bool(edge.signer.held))
    drain = asyncio.ensure_future(edge.listener.drain(10))
    await asyncio.sleep(0.01)
    assert not drain.done()
    edge.signer.release()
    _, writer = await client
    writer.close()
    assert await asyncio.wait_for(drain, 5) == 0
