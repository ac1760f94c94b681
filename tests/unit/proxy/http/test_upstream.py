"""One upstream connection without a socket: who is told what, once."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.base.errors import HttpReason
from proxy.config.schema import UpstreamConfig
from proxy.http.problem import HttpProblem
from proxy.http.response import Response
from proxy.http.upstream import UpstreamConnection
from tests.support.http_play import until

CONFIG = UpstreamConfig(name="web", servers=("127.0.0.1:1",), response_timeout_s=0.1, idle_timeout_s=0.1)


class Witness:
    """Owner and receiver in one; writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def released(self, connection: UpstreamConnection) -> None:
        self.told.append("released")

    def gone(self, connection: UpstreamConnection) -> None:
        self.told.append("gone")

    def interim_received(self, response: Response) -> None:
        self.told.append(response.status)

    def response_started(self, response: Response, parts: list[bytes], is_complete: bool) -> None:
        self.told.append((response.status, b"".join(parts), is_complete))

    def response_continued(self, parts: list[bytes], is_complete: bool) -> None:
        self.told.append((b"".join(parts), is_complete))

    def upstream_failed(self, problem: HttpProblem, *, is_unanswered: bool) -> None:
        self.told.append((problem.reason, is_unanswered))

    def upstream_blocked(self) -> None:
        self.told.append("blocked")

    def upstream_unblocked(self) -> None:
        self.told.append("unblocked")

    def tunnel_received(self, data: bytes) -> None:
        self.told.append(data)

    def tunnel_closed(self) -> None:
        self.told.append("tunnel closed")


class Wire(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False
        self.unsent = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def writelines(self, pieces: Any) -> None:
        self.sent += b"".join(pieces)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def started(*, is_done: bool = True) -> tuple[UpstreamConnection, Witness, Wire]:
    witness, wire = Witness(), Wire()
    connection = UpstreamConnection(CONFIG, witness, asyncio.get_running_loop())
    connection.connection_made(wire)
    connection.start(witness, b"HEAD", [], to_head=False, is_done=is_done, awaits=is_done)
    return connection, witness, wire


async def test_whole_response_releases_before_it_tells() -> None:
    connection, witness, wire = started()
    connection.data_received(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    connection.data_received(b"cd")
    assert wire.sent == b"HEAD"
    assert witness.told == [103, (200, b"ab", False), "released", (b"cd", True)]
    connection.close()
    connection.close()
    connection.connection_lost(None)
    assert witness.told[4:] == ["gone"]


async def test_response_before_the_end_of_the_request_ends_the_connection() -> None:
    connection, witness, wire = started(is_done=False)
    connection.data_received(b"HTTP/1.1 413 No\r\nContent-Length: 0\r\n\r\n")
    assert witness.told == ["gone", (413, b"", True)]
    assert wire.is_closed
    connection.connection_lost(None)
    assert len(witness.told) == 2


async def test_lost_connection_tells_whether_anything_was_answered() -> None:
    for data, is_unanswered in ((b"", True), (b"HTTP/1.1 2", False), (b"HTTP/1.1 100 Continue\r\n\r\n", False)):
        connection, witness, _ = started()
        if data:
            connection.data_received(data)
        connection.connection_lost(None)
        assert witness.told[-2:] == ["gone", (HttpReason.UPSTREAM_CLOSED, is_unanswered)]


async def test_reset_is_no_end_of_a_close_delimited_body() -> None:
    for error, last in ((None, (b"", True)), (ConnectionResetError(), (HttpReason.UPSTREAM_CLOSED, False))):
        connection, witness, _ = started()
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\nabc")
        connection.connection_lost(error)
        assert witness.told == [(200, b"abc", False), "gone", last]


async def test_abandoned_connection_tells_nothing_more() -> None:
    connection, witness, wire = started()
    connection.abandon()
    connection.abandon()
    connection.connection_lost(None)
    assert witness.told == ["gone"]
    assert wire.is_closed


async def test_silence_fails_before_and_within_a_response() -> None:
    for data in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"):
        connection, witness, _ = started()
        if data:
            connection.data_received(data)
        await until(lambda witness=witness: witness.told[-1:] == [(HttpReason.UPSTREAM_TIMEOUT, False)])
        connection.connection_lost(None)


async def test_no_deadline_runs_while_the_client_is_the_slow_one() -> None:
    connection, witness, _ = started()
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
    connection.pause()
    other, other_witness, _ = started()
    await until(lambda: (HttpReason.UPSTREAM_TIMEOUT, False) in other_witness.told)
    assert witness.told == [(200, b"ab", False)]
    connection.resume()
    await until(lambda: (HttpReason.UPSTREAM_TIMEOUT, False) in witness.told)
    for each in (connection, other):
        each.connection_lost(None)


async def test_blocked_server_is_timed_by_its_progress() -> None:
    connection, witness, wire = started(is_done=False)
    wire.unsent = 100
    connection.pause_writing()
    wire.unsent = 50
    other, other_witness, _ = started()
    await until(lambda: (HttpReason.UPSTREAM_TIMEOUT, False) in other_witness.told)
    await until(lambda: (HttpReason.UPSTREAM_TIMEOUT, False) in witness.told)
    assert witness.told[0] == "blocked"
    for each in (connection, other):
        each.connection_lost(None)


async def test_tunnel_passes_bytes_and_its_end() -> None:
    connection, witness, wire = started()
    connection.data_received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nfirst")
    assert connection.become_tunnel() == b"first"
    connection.data_received(b"more")
    connection.send([b"back"])
    connection.connection_lost(None)
    assert wire.sent == b"HEADback"
    assert witness.told == [(101, b"", False), b"more", "gone", "tunnel closed"]
