"""The proxy between real programs: curl in front, nginx behind, on asyncio's and uvloop's transports."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.http_play import GET, Play, Visit, play, read_head, until
from tests.support.nginx import running_nginx

MIB = 2**20


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    with running_nginx(tmp_path_factory.mktemp("nginx")) as (port, www):
        (www / "index.html").write_text("hello\n")
        (www / "big").write_bytes(os.urandom(4 * MIB))
        yield port, www


@asynccontextmanager
async def before(nginx: tuple[int, Path]) -> AsyncIterator[Play]:
    async with play(upstream={"servers": (f"127.0.0.1:{nginx[0]}",)}) as running:
        yield running


async def curl(*arguments: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output


async def test_curl_gets_pages_files_and_headers(nginx: tuple[int, Path]) -> None:
    async with before(nginx) as running:
        url = f"http://127.0.0.1:{running.port}"
        assert await curl(f"{url}/") == b"hello\n"
        assert await curl(f"{url}/big") == (nginx[1] / "big").read_bytes()
        assert await curl("--http1.0", f"{url}/big") == (nginx[1] / "big").read_bytes()
        head = await curl("--head", f"{url}/")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nContent-Length: 6\r\n" in head
        assert (await curl("-i", f"{url}/no-content")).startswith(b"HTTP/1.1 204 ")
        echoed = await curl("-H", "X-Forwarded-For: 6.6.6.6", f"{url}/echo-headers")
        assert echoed.split() == [b"GET", b"127.0.0.1", b"127.0.0.1", b"http"]


async def test_curl_uploads_with_length_chunks_and_expectation(nginx: tuple[int, Path]) -> None:
    data = nginx[1] / "big"
    async with before(nginx) as running:
        url = f"http://127.0.0.1:{running.port}/upload"
        await curl("-T", str(data), f"{url}/length")
        await curl("-T", str(data), "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue", f"{url}/chunked")
        trace = await curl("-v", "--stderr", "-", "-T", str(data), "-H", "Expect: 100-continue", f"{url}/expect")
        assert b"< HTTP/1.1 100 Continue" in trace
        for name in ("length", "chunked", "expect"):
            assert (nginx[1] / "upload" / name).read_bytes() == data.read_bytes(), name
        assert all(status in (201, 204) for _, _, _, status, _, _ in running.observer.finished)


async def test_many_requests_share_few_connections(nginx: tuple[int, Path]) -> None:
    async with before(nginx) as running:
        urls = [f"http://127.0.0.1:{running.port}/"] * 50
        assert await curl(*urls) == b"hello\n" * 50
        assert sum(running.observer.open.values()) == 1


def memory() -> int:
    gc.collect()
    rss: int = psutil.Process().memory_info().rss
    return rss


SIZE = 64 * MIB


async def test_memory_does_not_grow_with_a_download_to_a_slow_reader() -> None:
    block = b"x" * MIB
    ahead = 0

    async def big(visit: Visit) -> None:
        nonlocal ahead
        await visit.head()
        visit.writer.transport.set_write_buffer_limits(high=64 * 1024)
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // MIB):
            visit.send(block)
            await visit.writer.drain()
            ahead += MIB

    async with play(big) as running:
        reader, writer = await running.connect()
        writer.write(GET)
        await read_head(reader)
        before_bytes, taken, most = memory(), 0, 0
        while taken < SIZE:
            piece = await asyncio.wait_for(reader.read(MIB), 10)
            taken += len(piece)
            most = max(most, ahead - taken)
            if taken % (8 * MIB) < len(piece):
                await asyncio.sleep(0.05)  # the slow reader
        assert memory() - before_bytes < 32 * MIB
        assert most < 24 * MIB, "the server was let run ahead of the client"


async def test_memory_does_not_grow_with_an_upload_to_a_slow_server() -> None:
    taken = 0

    async def slow(visit: Visit) -> None:
        nonlocal taken
        await visit.head()
        while taken < SIZE:
            piece = await visit.reader.read(MIB)
            if taken % (8 * MIB) < len(piece):
                await asyncio.sleep(0.05)  # the slow server
            taken += len(piece)
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await visit.reader.read(-1)

    async with play(slow) as running:
        reader, writer = await running.connect()
        writer.transport.set_write_buffer_limits(high=64 * 1024)
        writer.write(b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: %d\r\n\r\n" % SIZE)
        before_bytes, most, block = memory(), 0, b"x" * MIB
        for number in range(SIZE // MIB):
            writer.write(block)
            await asyncio.wait_for(writer.drain(), 10)
            most = max(most, (number + 1) * MIB - taken)
        assert b" 200 " in await read_head(reader)
        assert memory() - before_bytes < 32 * MIB
        assert most < 24 * MIB, "the client was let run ahead of the server"


def test_it_runs_on_uvloop(nginx: tuple[int, Path]) -> None:
    import uvloop

    async def go() -> None:
        async with before(nginx) as running:
            url = f"http://127.0.0.1:{running.port}"
            assert await curl(f"{url}/big") == (nginx[1] / "big").read_bytes()
            await curl("-T", str(nginx[1] / "big"), f"{url}/upload/uvloop")
            assert (nginx[1] / "upload" / "uvloop").stat().st_size == 4 * MIB
            assert b" 400 " in await running.ask(b"bad\r\n\r\n")
            _, writer = await running.connect()
            writer.write(GET.replace(b"GET /", b"GET /big"))
            writer.close()
            await until(lambda: running.factory.active == 0)

    uvloop.run(go())
