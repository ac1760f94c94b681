"""The client's transport: joins, pauses once, never writes after its end."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.http.wire import JOIN_BYTES, WRITE_HIGH_WATER_BYTES, ClientWire


class FakeTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.closing = False
        self.unsent = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append(("limits", high))

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(("write", bytes(data)))

    def writelines(self, pieces: Any) -> None:
        self.calls.append(("writelines", len(pieces)))

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def can_write_eof(self) -> bool:
        return False

    def abort(self) -> None:
        self.calls.append("abort")


def test_small_pieces_are_joined_and_large_ones_are_not() -> None:
    transport = FakeTransport()
    wire = ClientWire(transport)
    wire.write([b"a", b"b"])
    wire.write([b"c"])
    wire.write([b"head", b"x" * JOIN_BYTES])
    assert transport.calls == [("limits", WRITE_HIGH_WATER_BYTES), ("write", b"ab"), ("write", b"c"), ("writelines", 2)]


def test_pausing_may_be_repeated() -> None:
    transport = FakeTransport()
    wire = ClientWire(transport)
    for act in (wire.resume, wire.pause, wire.pause, wire.resume, wire.resume):
        act()
    assert transport.calls[1:] == ["pause", "resume"]


def test_nothing_is_done_to_a_closing_transport() -> None:
    transport = FakeTransport()
    wire = ClientWire(transport)
    transport.closing = True
    wire.write([b"a"])
    wire.pause()
    wire.end_writing()
    assert wire.is_closing
    assert transport.calls[1:] == []


def test_progress_is_a_shrinking_backlog() -> None:
    transport = FakeTransport()
    wire = ClientWire(transport)
    transport.unsent = 10
    wire.note_progress()
    assert not wire.has_progressed
    transport.unsent = 9
    assert wire.has_progressed


def test_reset_works_without_a_socket() -> None:
    transport = FakeTransport()
    ClientWire(transport).reset()
    assert transport.calls[1:] == ["abort"]
