"""The relay with real sockets: what passes, what is reset, what vanishes, and who obeys."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.chaos.relay import order
from proxy.demo.processes import Program, free_port, listens

SILENCE_S = 0.2


@dataclass
class Node:
    """A server that answers each byte with the same, and remembers how its connections ended."""

    port: int
    connections: int = 0
    ends: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while data := await reader.read(1000):
                writer.write(data)
            self.ends.append("end")
        except ConnectionResetError:
            self.ends.append("reset")
        finally:
            writer.close()


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    found = Node(0)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()


@dataclass(frozen=True)
class Relay:
    socket: Path
    port: int

    async def order(self, what: str) -> None:
        await order(self.socket, "node-1", what)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
def relay(node: Node) -> Iterator[Relay]:
    with tempfile.TemporaryDirectory() as folder:
        place = Relay(Path(folder) / "relay.sock", free_port())
        command = [sys.executable, "-m", "proxy.chaos.relay", str(place.socket), f"node-1:{place.port}:{node.port}"]
        program = Program("relay", command, Path(folder) / "relay.log")
        program.start()
        try:
            program.wait_until(listens("127.0.0.1", place.port), 20)
            program.wait_until(place.socket.exists, 20)
            yield place
        finally:
            assert program.stop() == 0, program.log_tail()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"hello") -> bytes:
    writer.write(data)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(data))


async def is_silent(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(SILENCE_S):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_bytes_pass_and_an_end_is_an_end(relay: Relay, node: Node) -> None:
    reader, writer = await relay.connect()
    assert await echo(reader, writer) == b"hello"
    assert await echo(reader, writer, b"x" * 300_000) == b"x" * 300_000
    writer.close()
    await until(lambda: node.ends[-1:] == ["end"])


async def test_a_reset_is_a_rst_on_both_sides_and_new_connections_go_through(relay: Relay, node: Node) -> None:
    reader, writer = await relay.connect()
    await echo(reader, writer)
    await relay.order("reset")
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    await until(lambda: "reset" in node.ends)
    again = await relay.connect()
    assert await echo(*again) == b"hello"
    writer.close()
    again[1].close()


async def test_a_cut_link_resets_old_and_new_connections_until_it_is_whole(relay: Relay, node: Node) -> None:
    reader, writer = await relay.connect()
    await echo(reader, writer)
    connections = node.connections
    await relay.order("cut")
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    with contextlib.suppress(ConnectionResetError):
        late_reader, late_writer = await relay.connect()
        late_writer.write(b"hello")
        assert await late_reader.read(1) == b""
    assert node.connections == connections
    await relay.order("pass")
    again = await relay.connect()
    assert await echo(*again) == b"hello"
    again[1].close()
    writer.close()


async def test_a_half_open_link_swallows_and_closes_nothing_until_it_is_whole(relay: Relay, node: Node) -> None:
    reader, writer = await relay.connect()
    await echo(reader, writer)
    connections = node.connections
    await relay.order("swallow")
    writer.write(b"hello")
    late_reader, late_writer = await relay.connect()
    late_writer.write(b"hello")
    assert await is_silent(reader)
    assert await is_silent(late_reader)
    assert node.connections == connections
    assert "reset" not in node.ends
    await relay.order("pass")
    with pytest.raises(ConnectionResetError):  # it lost bytes
        await reader.read(1)
    again = await relay.connect()
    assert await echo(*again) == b"hello"
    for each in (writer, late_writer, again[1]):
        each.close()


async def test_an_end_that_vanished_is_not_heard_by_the_other_side(relay: Relay, node: Node) -> None:
    reader, writer = await relay.connect()
    await echo(reader, writer)
    await relay.order("swallow")
    ends = list(node.ends)
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(SILENCE_S)
    assert node.ends == ends
    await relay.order("pass")
    await until(lambda: "reset" in node.ends)


async def test_orders_that_nobody_knows_are_refused(relay: Relay) -> None:
    with pytest.raises(OSError, match="did not obey 'explode'"):
        await relay.order("explode")
    with pytest.raises(OSError, match="did not obey"):
        await order(relay.socket, "node-9", "pass")


async def test_a_node_that_is_down_is_a_reset(relay: Relay, node: Node) -> None:
    with tempfile.TemporaryDirectory() as folder:
        port, socket = free_port(), Path(folder) / "relay.sock"
        command = [sys.executable, "-m", "proxy.chaos.relay", str(socket), f"node-1:{port}:{free_port()}"]
        program = Program("relay", command, Path(folder) / "relay.log")
        program.start()
        try:
            await asyncio.to_thread(program.wait_until, socket.exists, 20)
            with contextlib.suppress(ConnectionResetError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                assert await reader.read(1) == b""
        finally:
            program.stop()
