"""Pools on real sockets: reuse, bounds, the queue, dead servers, other servers."""

from __future__ import annotations

import asyncio

import pytest

from proxy.base.errors import HttpReason
from tests.support.http_play import GET, OK, Origin, Play, Visit, answer_ok, play, read_exactly, read_head, until
from tests.support.nginx import free_port

CLOSE_GET = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def ask_many(running: Play, count: int) -> list[int]:
    answers = await asyncio.gather(*[running.ask(CLOSE_GET) for _ in range(count)])
    return [status_of(answer) for answer in answers]


def named(name: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name


async def test_servers_take_turns() -> None:
    async def a(visit: Visit) -> None:
        while await visit.head():
            visit.send(named(b"a"))

    async def b(visit: Visit) -> None:
        while await visit.head():
            visit.send(named(b"b"))

    async with play(a, b) as running:
        answers = [(await running.ask(CLOSE_GET))[-1:] for _ in range(6)]
        assert sorted(answers) == [b"a"] * 3 + [b"b"] * 3


async def test_least_busy_server_is_preferred() -> None:
    gate = asyncio.Event()

    async def stuck(visit: Visit) -> None:
        await visit.head()
        await gate.wait()
        visit.send(OK)
        await visit.reader.read(-1)

    async with play(stuck, answer_ok) as running:
        pending = [asyncio.create_task(running.ask(CLOSE_GET)) for _ in range(2)]
        await until(lambda: running.origins[0].visits == 1)
        for _ in range(6):
            assert status_of(await running.ask(CLOSE_GET)) == 200
        assert running.origins[0].visits == 1
        gate.set()
        await asyncio.gather(*pending)


async def test_connections_are_bounded_and_requests_wait_in_order() -> None:
    served: list[bytes] = []
    most = 0

    async def count(visit: Visit) -> None:
        nonlocal most
        while True:
            head = await visit.head()
            most = max(most, running.origin.open)
            served.append(head.split(b" ")[1])
            await asyncio.sleep(0.01)
            visit.send(OK)

    async with play(count, upstream={"max_connections": 2}) as running:
        requests = [CLOSE_GET.replace(b"GET /", b"GET /%02d" % number) for number in range(12)]
        tasks = []
        for number, request in enumerate(requests):
            tasks.append(asyncio.create_task(running.ask(request)))
            waiting = max(0, number + 1 - 2)
            pool = running.factory.pools["web"]
            await until(lambda pool=pool, waiting=waiting, n=number: pool.waiting + len(served) >= n - 1 or not waiting)
        assert [status_of(answer) for answer in await asyncio.gather(*tasks)] == [200] * 12
        assert most <= 2
        assert running.observer.open[running.origin.address] <= 2


async def test_full_queue_is_503_at_once_and_a_long_wait_is_503_in_time() -> None:
    gate = asyncio.Event()

    async def stuck(visit: Visit) -> None:
        while await visit.head():
            await gate.wait()
            visit.send(OK)

    limits = {"max_connections": 1, "max_waiting": 1, "queue_timeout_s": 0.3}
    async with play(stuck, upstream=limits) as running:
        first = asyncio.create_task(running.ask(CLOSE_GET))
        await until(lambda: running.origin.visits == 1)
        second = asyncio.create_task(running.ask(CLOSE_GET))
        await until(lambda: running.factory.pools["web"].waiting == 1)
        third = await running.ask(CLOSE_GET)
        assert status_of(third) == 503
        assert not second.done()
        assert status_of(await second) == 503
        gate.set()
        assert status_of(await first) == 200
        assert running.observer.failed == [(HttpReason.UPSTREAM_QUEUE_FULL, 503)] * 2
        assert running.observer.waiting == [1, 0]


async def test_client_that_leaves_the_queue_frees_its_place() -> None:
    gate = asyncio.Event()

    async def stuck(visit: Visit) -> None:
        while await visit.head():
            await gate.wait()
            visit.send(OK)

    async with play(stuck, upstream={"max_connections": 1}) as running:
        first = asyncio.create_task(running.ask(CLOSE_GET))
        await until(lambda: running.origin.visits == 1)
        _, writer = await running.connect()
        writer.write(GET)
        pool = running.factory.pools["web"]
        await until(lambda: pool.waiting == 1)
        writer.close()
        await until(lambda: pool.waiting == 0)
        gate.set()
        assert status_of(await first) == 200
        assert running.observer.waiting == [1, 0]
        assert await ask_many(running, 3) == [200] * 3
        assert running.observer.waiting[-1] == 0


async def test_refusing_server_is_marked_and_another_is_asked() -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with play(answer_ok) as one:
        async with play(upstream={"servers": (dead, one.origin.address), "server_retry_s": 60}) as running:
            assert await ask_many(running, 4) == [200] * 4
            refused = [reason for server, reason in running.observer.attempts if server == dead]
            assert set(refused) == {HttpReason.UPSTREAM_CONNECT}
            before = len(refused)
            for _ in range(4):
                assert status_of(await running.ask(CLOSE_GET)) == 200
            assert len([1 for server, _ in running.observer.attempts if server == dead]) == before
        await until(lambda: one.origin.open == 0)


async def test_upload_survives_a_refusing_server() -> None:
    async def upload(visit: Visit) -> None:
        while await visit.head():
            assert await visit.body(200_000) == b"x" * 200_000
            visit.send(OK)

    dead = f"127.0.0.1:{free_port()}"
    async with play(upload) as one, play(upstream={"servers": (dead, dead, one.origin.address)}) as running:
        for _ in range(2):
            reader, writer = await running.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000)
            assert status_of(await read_head(reader)) == 200


async def test_dead_upstream_is_502_and_comes_back() -> None:
    port = free_port()
    origin = Origin(answer_ok)
    async with play(upstream={"servers": (f"127.0.0.1:{port}",), "server_retry_s": 60}) as running:
        assert await ask_many(running, 2) == [502] * 2
        assert set(running.observer.failed) == {(HttpReason.UPSTREAM_CONNECT, 502)}
        await origin.start(port)
        assert status_of(await running.ask(CLOSE_GET)) == 200  # the only server is tried although it is marked
    await origin.stop()
    await until(lambda: origin.open == 0)


async def test_server_name_that_dns_cannot_carry_is_502() -> None:
    async with play(answer_ok, upstream={"servers": ("w\u00fc..b:80",)}) as running:
        answer = await running.ask(CLOSE_GET)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert running.observer.failed == [(HttpReason.UPSTREAM_CONNECT, 502)]


async def test_connect_that_hangs_is_504() -> None:
    # A listener whose queue is full answers no further SYN.
    import socket

    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        upstream = {"servers": (f"127.0.0.1:{address[1]}",), "connect_timeout_s": 0.2}
        async with play(upstream=upstream) as running:
            assert status_of(await running.ask(CLOSE_GET)) == 504
            assert running.observer.failed == [(HttpReason.UPSTREAM_CONNECT_TIMEOUT, 504)]
        for filler in fillers:
            filler.close()


async def test_unused_connections_are_closed_in_time_and_bounded_in_number() -> None:
    async with play(answer_ok, upstream={"keepalive_s": 0.2, "max_idle_connections": 2}) as running:
        assert await ask_many(running, 6) == [200] * 6
        await until(lambda: running.observer.open[running.origin.address] <= 2)
        await until(lambda: running.observer.open[running.origin.address] == 0)


async def test_unasked_bytes_on_an_unused_connection_are_never_a_response() -> None:
    poison = asyncio.Event()

    async def poisoner(visit: Visit) -> None:
        await visit.head()
        visit.send(OK)
        if visit.number == 1:
            await poison.wait()
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await visit.reader.read(-1)

    async with play(poisoner) as running:
        assert (await running.ask(CLOSE_GET)).endswith(b"ok")
        poison.set()
        await until(lambda: running.observer.open[running.origin.address] == 0)
        assert (await running.ask(CLOSE_GET)).endswith(b"ok")


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", b"x"])
async def test_bytes_behind_a_response_never_reach_the_next_request(tail: bytes) -> None:
    async def sloppy(visit: Visit) -> None:
        while True:
            await visit.head()
            visit.send(OK + tail)

    async with play(sloppy) as running:
        reader, writer = await running.connect()
        for _ in range(3):
            writer.write(GET)
            assert status_of(await read_head(reader)) == 200
            assert await read_exactly(reader, 2) == b"ok"
        assert running.origin.visits == 3
