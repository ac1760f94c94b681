from __future__ import annotations

import asyncio

import pytest

from proxy.base.jobs import CONNECTION_INFO, ConnectionInfo
from proxy.edge.transport import TlsTransport

INFO = ConnectionInfo("192.0.2.1", 1, "192.0.2.2", 443, "https", "site", "site", "TLSv1.3", "c", "", False)


class Tcp:
    """A TCP transport that records."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.log: list[str] = []
        self.is_gone = False

    def writelines(self, pieces: list[bytes]) -> None:
        self.sent.append(b"".join(pieces))

    def pause_reading(self) -> None:
        self.log.append("pause")

    def set_write_buffer_limits(self, high: int | None, low: int | None) -> None:
        self.log.append(f"limits {high} {low}")

    def get_write_buffer_size(self) -> int:
        return 17

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return (1, 4)

    def is_closing(self) -> bool:
        return self.is_gone

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.1", 1)}.get(name, default)


class Engine:
    """Encrypts by putting brackets round each send."""

    def __init__(self) -> None:
        self.output: list[bytes] = []

    def send(self, data: bytes) -> None:
        self.output.append(b"[" + bytes(data) + b"]")

    def chunks_to_send(self) -> list[bytes]:
        output, self.output = self.output, []
        return output


class Upper(asyncio.Protocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.keeps_open = False
        self.had_eof = False

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def eof_received(self) -> bool:
        self.had_eof = True
        return self.keeps_open


class Connection:
    def __init__(self) -> None:
        self.log: list[str] = []

    def close(self) -> None:
        self.log.append("close")

    def abort(self) -> None:
        self.log.append("abort")

    def resume_input(self) -> None:
        self.log.append("resume input")


class World:
    def __init__(self) -> None:
        self.tcp, self.engine, self.upper, self.connection = Tcp(), Engine(), Upper(), Connection()
        self.transport = TlsTransport(
            self.connection,
            self.tcp,  # type: ignore[arg-type]
            self.engine,  # type: ignore[arg-type]
            self.upper,
            INFO,
            asyncio.get_running_loop(),
        )


@pytest.fixture
async def world() -> World:
    return World()


async def test_writes_are_encrypted_and_sent_at_once(world: World) -> None:
    world.transport.write(b"a")
    world.transport.write(memoryview(b"b"))
    world.transport.write(b"")
    assert world.tcp.sent == [b"[a]", b"[b]"]


async def test_pieces_share_a_record(world: World) -> None:
    world.transport.writelines([b"head", bytearray(b"body"), memoryview(b"!")])
    assert world.tcp.sent == [b"[headbody!]"]


async def test_small_writes_of_one_batch_leave_together_and_large_ones_do_not_wait(world: World) -> None:
    world.transport.is_batching = True
    world.transport.write(b"a")
    world.transport.write(b"b")
    assert world.tcp.sent == []
    world.transport.flush()
    assert world.tcp.sent == [b"[a][b]"]
    world.transport.write(b"x" * 70_000)
    assert len(world.tcp.sent) == 2


async def test_nothing_is_written_to_a_tcp_transport_that_closes(world: World) -> None:
    world.tcp.is_gone = True
    world.transport.write(b"a")
    assert world.tcp.sent == []


async def test_after_the_end_everything_is_harmless(world: World) -> None:
    world.transport.end()
    world.transport.write(b"a")
    world.transport.deliver(b"b")
    world.transport.deliver_eof()
    world.transport.close()
    world.transport.abort()
    world.transport.pause_reading()
    world.transport.resume_reading()
    assert (world.tcp.sent, world.upper.received, world.connection.log, world.tcp.log) == ([], [], [], [])
    assert world.transport.is_closing()
    assert not world.transport.is_reading()
    assert world.transport.get_write_buffer_size() == 0


async def test_paused_data_is_held_in_order_and_delivered_from_the_loop(world: World) -> None:
    world.transport.pause_reading()
    world.transport.pause_reading()
    assert world.tcp.log == ["pause"]
    for piece in (b"1", b"2"):
        world.transport.deliver(piece)
    world.transport.deliver_eof()
    world.transport.resume_reading()
    world.transport.deliver(b"3")  # between resume and delivery
    assert world.upper.received == []
    await asyncio.sleep(0)
    assert world.upper.received == [b"1", b"2", b"3"]
    assert world.upper.had_eof
    assert world.connection.log == ["close", "resume input"]  # the real connection, once closing, does not resume


async def test_a_protocol_that_keeps_its_side_open_after_eof_is_not_closed(world: World) -> None:
    world.upper.keeps_open = True
    world.transport.deliver_eof()
    assert world.connection.log == []


async def test_the_connection_is_asked_to_read_when_nothing_is_held(world: World) -> None:
    world.transport.pause_reading()
    world.transport.resume_reading()
    world.transport.resume_reading()
    assert world.tcp.log == ["pause"]
    assert world.connection.log == ["resume input"]


async def test_it_answers_for_the_tcp_transport(world: World) -> None:
    transport = world.transport
    transport.set_write_buffer_limits(10, 2)
    assert world.tcp.log == ["limits 10 2"]
    assert transport.get_write_buffer_size() == 17
    assert transport.get_write_buffer_limits() == (1, 4)
    assert transport.get_extra_info(CONNECTION_INFO) is INFO
    assert transport.get_extra_info("peername") == ("192.0.2.1", 1)
    assert transport.get_extra_info("other", 5) == 5
    assert not transport.can_write_eof()


async def test_the_protocol_can_be_changed(world: World) -> None:
    other = Upper()
    world.transport.set_protocol(other)
    world.transport.deliver(b"x")
    assert other.received == [b"x"]
    assert world.transport.get_protocol() is other
    with pytest.raises(TypeError, match="Protocol"):
        world.transport.set_protocol(asyncio.BaseProtocol())
