"""A client's connection on real sockets: keep-alive, pipelining, refusals, limits and deadlines."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from proxy.base.errors import HttpReason
from tests.support.hostile_requests import BODIES, HEADS
from tests.support.http_play import GET, OK, Visit, answer_ok, play, read_exactly, read_head, until

HELLO = b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\nhello"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_connection_is_kept_on_both_sides() -> None:
    async with play(answer_ok) as running:
        reader, writer = await running.connect()
        for _ in range(3):
            writer.write(GET)
            assert (await read_head(reader)).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await read_exactly(reader, 2) == b"ok"
        assert running.origin.visits == 1
        assert running.observer.finished == [("site.test", "web", "GET", 200, 0, 2)] * 3


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def echo_path(visit: Visit) -> None:
        while True:
            path = (await visit.head()).split(b" ")[1]
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))

    async with play(echo_path) as running:
        requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: site.test\r\n\r\n" % number for number in range(200))
        answer = await running.ask(requests + b"GET /last HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
        bodies = [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 200 OK")[1:]]
        assert bodies == [*(b"/%d" % number for number in range(200)), b"/last"]


async def test_client_that_pipelines_without_end_is_not_buffered() -> None:
    gate = asyncio.Event()

    async def slow(visit: Visit) -> None:
        while True:
            await visit.head()
            await gate.wait()
            visit.send(OK)

    async with play(slow) as running:
        _, writer = await running.connect()
        writer.transport.set_write_buffer_limits(high=1)
        sent = 0
        blocks = GET * 1000
        while sent < 64 * 2**20:
            writer.write(blocks)
            sent += len(blocks)
            try:
                await asyncio.wait_for(writer.drain(), 0.5)
            except TimeoutError:
                break
        assert sent < 32 * 2**20, "the proxy went on reading"
        writer.transport.abort()
        gate.set()


@pytest.mark.parametrize(("name", "data", "status"), HEADS, ids=[name for name, _, _ in HEADS])
async def test_upstream_sees_nothing_of_a_hostile_head(name: str, data: bytes, status: int) -> None:
    seen: list[bytes] = []

    async def listen(visit: Visit) -> None:
        seen.append(await visit.reader.read(-1))

    async with play(listen) as running:
        answer = await running.ask(data)
        assert status_of(answer) == status
        assert answer.count(b"HTTP/1.1 %d " % status) == 1
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"\r\nConnection: close" in head
        assert b"\r\nContent-Type: text/plain" in head
        assert body.startswith(b"%d " % status)
        assert (running.origin.visits, seen) == (0, [])
        assert len(running.observer.failed) == 1


@pytest.mark.parametrize(("name", "data", "status"), BODIES, ids=[name for name, _, _ in BODIES])
async def test_hostile_body_never_ends_a_request(name: str, data: bytes, status: int) -> None:
    seen: list[bytes] = []

    async def listen(visit: Visit) -> None:
        try:
            seen.append(await visit.reader.read(-1))
        except ConnectionError:
            seen.append(b"")

    async with play(listen) as running:
        answer = await running.ask(data)
        assert status_of(answer) == status
        assert b"Connection: close" in answer
        await until(lambda: running.origin.open == 0)
        assert not any(b"0\r\n\r\n" in received for received in seen), "the upstream saw a whole request"


async def test_bodies_of_all_framings_arrive() -> None:
    seen: list[bytes] = []

    async def keep(visit: Visit) -> None:
        while True:
            head = await visit.head()
            if b"Content-Length: 5" in head:
                seen.append(await visit.body(5))
            else:
                assert b"Transfer-Encoding: chunked" in head
                seen.append(await visit.reader.readuntil(b"0\r\n\r\n"))
            visit.send(OK)

    chunked = b"PUT / HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with play(keep) as running:
        reader, writer = await running.connect()
        writer.write(HELLO)
        assert status_of(await read_head(reader)) == 200
        await read_exactly(reader, 2)
        writer.write(chunked + b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: x\r\n\r\n")
        assert status_of(await read_head(reader)) == 200
        assert seen == [b"hello", b"5\r\nabcde\r\n0\r\n\r\n"]
        assert running.observer.finished[1][4] == 5


@pytest.mark.parametrize(
    ("http", "data", "status", "reason"),
    [
        ({"header_timeout_s": 0.1}, b"GET / HTTP/1.1\r\nHost:", 408, HttpReason.REQUEST_TIMEOUT),
        ({"header_timeout_s": 0.1}, b"\r\n", 408, HttpReason.REQUEST_TIMEOUT),
        ({"body_timeout_s": 0.1}, HELLO[:-2], 408, HttpReason.REQUEST_TIMEOUT),
        ({"max_body_bytes": 4}, HELLO, 413, HttpReason.BODY_TOO_LARGE),
        ({"max_header_bytes": 1024}, b"GET / HTTP/1.1\r\nX: " + b"a" * 2000, 431, HttpReason.HEADERS_TOO_LARGE),
        ({"max_target_bytes": 64}, b"GET /" + b"a" * 100 + GET[5:], 414, HttpReason.HEADERS_TOO_LARGE),
    ],
)
async def test_limits_and_deadlines_are_answered(
    http: dict[str, Any], data: bytes, status: int, reason: HttpReason
) -> None:
    async def listen(visit: Visit) -> None:
        await visit.reader.read(-1)

    async with play(listen, http=http | {"linger_timeout_s": 0.1}) as running:
        answer = await running.ask(data)
        assert status_of(answer) == status
        assert running.observer.failed == [(reason, status)]


async def test_refused_upload_can_be_read_although_the_client_goes_on_sending() -> None:
    async with play(answer_ok, http={"max_body_bytes": 1000}) as running:
        reader, writer = await running.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4000000\r\n\r\n")
        writer.write(b"x" * 4_000_000)
        assert status_of(await read_head(reader)) == 413
        assert (await asyncio.wait_for(reader.read(-1), 10)).startswith(b"413 ")


async def test_idle_connections_are_closed_without_a_word() -> None:
    async with play(answer_ok, http={"keepalive_timeout_s": 0.1}) as running:
        assert await running.ask(b"") == b""
        assert await running.ask(GET) != b""
        assert running.observer.failed == []


async def test_client_that_takes_nothing_is_cut() -> None:
    async def endless(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            visit.send(b"x" * 65536)
            await visit.writer.drain()

    async with play(endless, http={"send_timeout_s": 0.2}) as running:
        reader, writer = await running.connect()
        writer.write(GET)
        await until(lambda: running.observer.failed == [(HttpReason.CLIENT_ABORTED, 0)])
        await until(lambda: running.factory.active == 0)
        del reader


async def test_slow_client_is_not_cut_while_it_takes_something() -> None:
    size = 8 * 2**20

    async def big(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await visit.writer.drain()

    async with play(big, http={"send_timeout_s": 0.5}, upstream={"idle_timeout_s": 0.5}) as running:
        reader, writer = await running.connect()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await read_head(reader)
        taken = 0
        while taken < size:
            piece = await asyncio.wait_for(reader.read(2**20), 10)
            assert piece, f"cut after {taken} bytes"
            taken += len(piece)
            await asyncio.sleep(0.02)  # the slowness is what is tested
        assert taken == size
        await until(lambda: len(running.observer.finished) == 1)


async def test_http_1_0_client_gets_no_chunks() -> None:
    async def chunked(visit: Visit) -> None:
        while True:
            await visit.head()
            visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    async with play(chunked) as running:
        answer = await running.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


async def test_http_1_0_client_may_keep_its_connection() -> None:
    async with play(answer_ok) as running:
        reader, writer = await running.connect()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.0\r\nHost: site.test\r\nConnection: keep-alive\r\n\r\n")
            assert b"\r\nConnection: keep-alive\r\n" in await read_head(reader)
            assert await read_exactly(reader, 2) == b"ok"


async def test_head_gets_no_body_and_the_connection_lives() -> None:
    async def head_only(visit: Visit) -> None:
        while True:
            assert (await visit.head()).startswith(b"HEAD ")
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

    async with play(head_only) as running:
        reader, writer = await running.connect()
        for _ in range(2):
            writer.write(b"HEAD" + GET[3:])
            assert b"\r\nContent-Length: 1000\r\n" in await read_head(reader)
        assert running.origin.visits == 1


async def test_misdirected_request_is_refused_and_the_connection_lives() -> None:
    async with play(answer_ok) as running:
        reader, writer = await running.connect()
        writer.write(GET)
        assert status_of(await read_head(reader)) == 200
        await read_exactly(reader, 2)
        writer.write(b"GET / HTTP/1.1\r\nHost: a.wild.test\r\n\r\n")
        assert status_of(await read_head(reader)) == 200  # plain TCP has no TLS site to contradict
        assert running.observer.failed == []


async def test_client_that_leaves_aborts_its_upstream_request() -> None:
    left = asyncio.Event()

    async def wait_for_end(visit: Visit) -> None:
        await visit.head()
        with contextlib.suppress(ConnectionError):
            assert await visit.reader.read(-1) == b""
        left.set()

    async with play(wait_for_end) as running:
        _, writer = await running.connect()
        writer.write(GET)
        await until(lambda: running.origin.visits == 1)
        writer.close()
        await asyncio.wait_for(left.wait(), 10)
        assert running.observer.failed == [(HttpReason.CLIENT_ABORTED, 0)]
        await until(lambda: running.factory.active == 0)


async def test_drain_closes_idle_connections_and_finishes_the_others() -> None:
    gate = asyncio.Event()

    async def gated(visit: Visit) -> None:
        await visit.head()
        await gate.wait()
        visit.send(OK)
        await visit.reader.read(-1)

    async with play(gated) as running:
        idle_reader, _ = await running.connect()
        reader, writer = await running.connect()
        writer.write(GET)
        await until(lambda: running.origin.visits == 1)
        assert running.factory.active == 2
        running.factory.drain()
        assert await asyncio.wait_for(idle_reader.read(-1), 10) == b""
        gate.set()
        assert b"\r\nConnection: close\r\n" in await read_head(reader)
        assert await asyncio.wait_for(reader.read(-1), 10) == b"ok"
        await until(lambda: running.factory.active == 0)


async def test_client_that_is_blocked_before_there_is_an_upstream_connection_is_not_buffered_for() -> None:
    size = 32 * 2**20
    gate, whole = asyncio.Event(), asyncio.Event()

    async def first_waits_then_large(visit: Visit) -> None:
        await visit.head()
        await gate.wait()
        visit.send(OK)
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            visit.send(bytes(65536))
            await visit.writer.drain()
        whole.set()

    async with play(first_waits_then_large, upstream={"max_connections": 1}) as running:
        _, first = await running.connect()
        first.write(GET)
        await until(lambda: running.origin.visits == 1)
        known = set(running.factory._connections)
        reader, second = await running.connect()
        second.write(GET)
        await until(lambda: running.factory.pools["web"].waiting == 1)
        # What TLS says by itself can fill the transport, too, and pause_writing is told only once.
        [blocked] = set(running.factory._connections) - known
        blocked._wire._transport.set_write_buffer_limits(high=2**40)
        blocked.pause_writing()
        gate.set()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(whole.wait(), 1.0)
        blocked.resume_writing()
        await read_head(reader)
        await read_exactly(reader, size)
