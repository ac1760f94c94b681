"""One request and its response on real sockets: every way a response can come, fail or be given up."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from proxy.base.errors import HttpReason
from proxy.config.schema import HttpConfig
from proxy.http.exchange import Exchange
from proxy.http.request import read_request
from tests.support.http_play import GET, OK, Play, Visit, answer_ok, play, read_exactly, read_head, until

CLOSE_GET = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
UPLOAD = b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 1000\r\n\r\n"


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (OK, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: v\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: x\r\n\r\n",
            b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n",
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK,
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        ),
        (
            b"HTTP/1.1 200\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nConnection: X-Own\r\nX-Own: 1\r\n\r\n",
            b"HTTP/1.1 200 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
    ],
    ids=["length", "chunked", "204", "304", "103", "hop by hop"],
)
async def test_response_is_relayed(response: bytes, expected: bytes) -> None:
    async def answer(visit: Visit) -> None:
        await visit.head()
        visit.send(response)
        await visit.reader.read(-1)

    async with play(answer) as running:
        assert await running.ask(CLOSE_GET) == expected


async def test_close_delimited_response_becomes_chunked() -> None:
    async def until_close(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.0 200 OK\r\n\r\nabc")

    async with play(until_close) as running:
        reader, writer = await running.connect()
        for _ in range(2):
            writer.write(GET)
            assert b"\r\nTransfer-Encoding: chunked\r\n" in await read_head(reader)
            body = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
            assert body == b"3\r\nabc\r\n0\r\n\r\n"


BAD_RESPONSES = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "other coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "NUL": b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 999": b"HTTP/1.1 999 OK\r\n\r\n",
    "unasked 101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "endless interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 40,
    "huge head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000,
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n",
    "closed at once": b"",
    "closed in the head": b"HTTP/1.1 200 OK\r\nContent-",
}


@pytest.mark.parametrize("response", BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
async def test_bad_response_becomes_502(response: bytes) -> None:
    async def answer(visit: Visit) -> None:
        await visit.head()
        visit.send(response)
        if response and not response.endswith(b"-"):
            await visit.reader.read(-1)

    async with play(answer) as running:
        body = await running.ask(CLOSE_GET)
        final = body[body.rindex(b"HTTP/1.1 ") :]
        assert status_of(final) == 502
        assert b"\r\n\r\n502 Bad Gateway: " in final
        expected = HttpReason.UPSTREAM_CLOSED if response in (b"", BAD_RESPONSES["closed in the head"]) else None
        assert running.observer.failed == [(expected or HttpReason.UPSTREAM_BAD_RESPONSE, 502)]


@pytest.mark.parametrize(
    ("start", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"d"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", b"3\r\nab"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", b"X\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked", "bad chunk"],
)
async def test_truncated_response_does_not_look_whole(start: bytes, rest: bytes) -> None:
    has_begun = asyncio.Event()

    async def truncate(visit: Visit) -> None:
        await visit.head()
        visit.send(start)
        await has_begun.wait()
        visit.send(rest)

    async with play(truncate) as running:
        reader, writer = await running.connect()
        writer.write(GET)
        assert status_of(await read_head(reader)) == 200
        has_begun.set()
        body = await asyncio.wait_for(reader.read(-1), 10)
        assert b"abc" in body
        assert not body.endswith(b"0\r\n\r\n")
        assert len(body) <= len(start + rest)
        assert running.observer.finished == []
        assert len(running.observer.failed) == 1


async def test_truncated_response_resets_an_http_1_0_client() -> None:
    async def truncate(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")

    async with play(truncate) as running:
        reader, writer = await running.connect()
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 10)


async def test_expectation_is_answered_by_the_upstream() -> None:
    async def careful(visit: Visit) -> None:
        assert b"Expect: 100-continue\r\n" in await visit.head()
        visit.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await visit.body(5) == b"hello"
        visit.send(OK)
        await visit.reader.read(-1)

    async with play(careful) as running:
        reader, writer = await running.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await read_head(reader) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert status_of(await read_head(reader)) == 200


async def test_expectation_that_is_refused_ends_the_connection() -> None:
    async def refuse(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n")
        await visit.reader.read(-1)

    async with play(refuse) as running:
        answer = await running.ask(UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert status_of(answer) == 417
        assert b"\r\nConnection: close\r\n" in answer


async def test_silent_upstream_is_timed_even_while_its_100_is_awaited() -> None:
    async def silent(visit: Visit) -> None:
        await visit.reader.read(-1)

    async with play(silent, http={"body_timeout_s": 0.1}, upstream={"response_timeout_s": 0.3}) as running:
        answer = await running.ask(UPLOAD.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert status_of(answer) == 504


async def test_early_response_is_relayed_before_the_request_ends() -> None:
    async def impatient(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(ConnectionError):
            await visit.reader.read(-1)

    async with play(impatient) as running:
        reader, writer = await running.connect()
        writer.write(UPLOAD + b"x" * 10)
        head = await read_head(reader)
        assert status_of(head) == 403
        assert b"\r\nConnection: close\r\n" in head
        assert await asyncio.wait_for(reader.read(-1), 10) == b"no"


async def test_response_streams_while_the_request_does() -> None:
    async def echo(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(10):
            visit.send(await visit.body(100))

    async with play(echo) as running:
        reader, writer = await running.connect()
        writer.write(UPLOAD)
        await read_head(reader)
        for number in range(10):
            piece = b"%d" % number * 100
            writer.write(piece)
            assert await read_exactly(reader, 100) == piece
        assert await asyncio.wait_for(reader.read(-1), 10) == b""
        await until(lambda: len(running.observer.finished) == 1)


async def test_upstream_deadlines_become_504_or_a_cut() -> None:
    async def stall(visit: Visit) -> None:
        if b"/head" in await visit.head():
            visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await visit.reader.read(-1)

    async with play(stall, upstream={"response_timeout_s": 0.1, "idle_timeout_s": 0.1}) as running:
        assert status_of(await running.ask(CLOSE_GET)) == 504
        answer = await running.ask(CLOSE_GET.replace(b"GET /", b"GET /head"))
        assert answer.endswith(b"\r\n\r\nabc")
        assert running.observer.failed == [(HttpReason.UPSTREAM_TIMEOUT, 504), (HttpReason.UPSTREAM_TIMEOUT, 0)]


async def test_upstream_that_takes_no_body_is_504() -> None:
    async def deaf(visit: Visit) -> None:
        visit.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: running.observer.failed != [])

    async with play(deaf, http={"body_timeout_s": 5}, upstream={"idle_timeout_s": 0.2}) as running:
        reader, writer = await running.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 40000000\r\n\r\n" + b"x" * 30_000_000)
        assert status_of(await read_head(reader)) == 504
        assert running.observer.failed == [(HttpReason.UPSTREAM_TIMEOUT, 504)]


async def test_request_on_a_dead_kept_connection_is_repeated() -> None:
    async def one_each(visit: Visit) -> None:
        await visit.head()
        visit.send(OK)
        await visit.head()  # and closes without an answer

    async with play(one_each) as running:
        reader, writer = await running.connect()
        for _ in range(3):
            writer.write(GET)
            assert status_of(await read_head(reader)) == 200
            await read_exactly(reader, 2)
        assert running.origin.visits == 3
        assert running.observer.failed == []


async def test_post_on_a_dead_kept_connection_is_not_repeated() -> None:
    posts: list[bytes] = []

    async def one_each(visit: Visit) -> None:
        await visit.head()
        visit.send(OK)
        posts.append(await visit.head())

    async with play(one_each) as running:
        reader, writer = await running.connect()
        writer.write(GET)
        await read_head(reader)
        await read_exactly(reader, 2)
        writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0\r\n\r\n")
        assert status_of(await read_head(reader)) == 502
        assert len(posts) == 1


@pytest.mark.parametrize(
    ("version", "interim", "expected"),
    [
        ("1.0", b"HTTP/1.1 100 Continue\r\n\r\n", 408),
        ("1.1", b"HTTP/1.1 100 Continue\r\n\r\n", 408),
        ("1.1", b"HTTP/1.1 103 Early Hints\r\n\r\n", 504),
    ],
)
async def test_somebody_is_always_timed_while_a_client_expects_to_be_asked_for_its_body(
    version: str, interim: bytes, expected: int
) -> None:
    async def silent_after(visit: Visit) -> None:
        await visit.head()
        visit.send(interim)
        await visit.reader.read(-1)

    limits = {"http": {"body_timeout_s": 0.2}, "upstream": {"response_timeout_s": 0.2}}
    async with play(silent_after, **limits) as running:
        reader, writer = await running.connect()
        head = UPLOAD.replace(b"HTTP/1.1", b"HTTP/" + version.encode())
        writer.write(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        answer = await read_head(reader)
        if status_of(answer) < 200:
            answer = await read_head(reader)
        assert status_of(answer) == expected


async def test_upstream_that_is_full_with_the_first_bytes_holds_the_client() -> None:
    heard: list[str] = []

    class Client:
        def hold(self) -> None:
            heard.append("hold")

        def go_on(self) -> None:
            heard.append("go on")

    class Full:
        def start(self, receiver: Exchange, *_parts: object, **_flags: object) -> None:
            receiver.upstream_blocked()  # as a transport does from within a large write

    request = read_request(UPLOAD, HttpConfig())
    exchange = Exchange(Client(), request, b"", "site.test", None, None, asyncio.get_running_loop())
    exchange.send_body([b"x" * 500], is_complete=False)
    exchange.connection_ready(Full(), None)
    assert heard == ["hold", "go on", "hold"]


async def test_websocket_is_tunnelled_both_ways() -> None:
    async def socket(visit: Visit) -> None:
        head = await visit.head()
        assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nSec-WebSocket-Key: k\r\n" in head
        visit.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: a\r\n\r\nfirst"
        )
        assert await visit.body(5) == b"early"
        assert await visit.body(4) == b"\x81\x02hi"
        visit.send(b"\x81\x02ho")
        assert await visit.reader.read(-1) == b""

    async with play(socket) as running:
        reader, writer = await running.connect()
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: site.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: k\r\n\r\nearly"
        )
        head = await read_head(reader)
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\n")
        assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in head
        assert await read_exactly(reader, 5) == b"first"
        writer.write(b"\x81\x02hi")
        assert await read_exactly(reader, 4) == b"\x81\x02ho"
        writer.close()
        await until(lambda: running.origin.open == 0)
        assert running.observer.finished == [("site.test", "web", "GET", 101, 9, 9)]


async def test_much_that_was_sent_before_the_switch_does_not_stop_a_tunnel() -> None:
    size = 2**20
    gate, received = asyncio.Event(), bytearray()

    async def socket(visit: Visit) -> None:
        await visit.head()
        await gate.wait()
        visit.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := await visit.reader.read(65536):
            received.extend(data)

    async with play(socket) as running:
        reader, writer = await running.connect()
        writer.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
        await until(lambda: running.origin.visits == 1)
        writer.write(bytes(size))
        await until(lambda: any(connection._is_held for connection in running.factory._connections))
        gate.set()
        assert status_of(await read_head(reader)) == 101
        await until(lambda: len(received) == size)


async def test_unused_tunnel_is_closed() -> None:
    async def socket(visit: Visit) -> None:
        await visit.head()
        visit.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert await visit.reader.read(-1) == b""

    async with play(socket, upstream={"tunnel_timeout_s": 0.1}) as running:
        answer = await running.ask(
            b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        assert status_of(answer) == 101


async def test_refused_upgrade_is_an_ordinary_response() -> None:
    async with play(answer_ok) as running:
        reader, writer = await running.connect()
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert status_of(await read_head(reader)) == 200
            await read_exactly(reader, 2)


async def test_whatever_ends_an_exchange_frees_its_connection_once() -> None:
    """Clients and servers that break off at random; `play` checks that every count returns to nothing."""
    dice = random.Random(7)

    async def moody(visit: Visit) -> None:
        while True:
            head = await visit.head()
            mood = dice.randrange(10)
            if b"Content-Length: 5000" in head and mood < 7:
                await visit.body(dice.choice([100, 5000]))
            if mood == 0:
                return
            if mood == 1:
                visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab")
                return
            if mood == 2:
                visit.send(b"nonsense\r\n\r\n")
            elif mood == 3:
                visit.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 200 OK\r\n\r\nabc")
                return
            elif mood == 4:
                visit.writer.transport.abort()
                return
            elif mood == 5:
                await asyncio.sleep(0.02)
            visit.send(OK)

    async def client(running: Play) -> None:
        reader, writer = await running.connect()
        for _ in range(dice.randrange(1, 6)):
            upload = b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
            writer.write(dice.choice([GET, GET * 3, upload, upload[:-10], b"bad\r\n\r\n"]))
            what = dice.randrange(4)
            if what == 0:
                break
            if what == 1:
                await asyncio.sleep(dice.random() * 0.02)
            else:
                with contextlib.suppress(TimeoutError, ConnectionError):
                    await asyncio.wait_for(reader.read(100), 0.1)
        writer.transport.abort()

    limits = {"max_connections": 5, "max_waiting": 20, "queue_timeout_s": 0.1, "response_timeout_s": 0.3}
    async with play(moody, moody, http={"linger_timeout_s": 0.05}, upstream=limits) as running:
        for _ in range(6):
            await asyncio.gather(*[client(running) for _ in range(40)])
        await until(lambda: running.factory.active == 0)
        assert len(running.observer.finished) > 20
        assert len({reason for reason, _ in running.observer.failed}) > 3
        busy = [server.busy for server in running.factory.pools["web"].servers]
        assert busy == [0, 0]
