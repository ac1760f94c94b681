from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from hsm.shared.exposition import MAX_CONNECTIONS, Health, ListenError, json_response, ops_app, serve


def make_app(*, ready: bool = True) -> web.Application:
    async def echo(request: web.Request) -> web.Response:
        return json_response({"size": len(await request.read())})

    async def crash(_request: web.Request) -> web.Response:
        raise ValueError("secret detail")

    return ops_app(
        lambda: b"metric 1\n",
        lambda: Health(True),
        lambda: Health(ready, {"reason": "starting"}),
        [web.post("/echo", echo), web.get("/crash", crash)],
        max_request_bytes=1000,
    )


async def fetch(address: str, path: str) -> tuple[int, bytes, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        return answer.status, await answer.read(), answer.headers["Content-Type"]


async def test_metrics_health_and_readiness_are_served() -> None:
    running = await serve(make_app(ready=False), "127.0.0.1:0")
    try:
        assert not running.address.endswith(":0")
        status, body, kind = await fetch(running.address, "/metrics")
        assert (status, body) == (200, b"metric 1\n")
        assert kind.startswith("text/plain; version=0.0.4")
        assert (await fetch(running.address, "/healthz"))[:2] == (200, b'{"status":"ok"}')
        assert (await fetch(running.address, "/readyz"))[:2] == (503, b'{"status":"failing","reason":"starting"}')
        assert (await fetch(running.address, "/nothing"))[0] == 404
    finally:
        await running.stop()
    await running.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await fetch(running.address, "/metrics")


async def test_a_crash_of_a_handler_is_logged_and_tells_the_client_nothing() -> None:
    running = await serve(make_app(), "127.0.0.1:0")
    try:
        with capture_logs() as logs:
            status, body, _ = await fetch(running.address, "/crash")
        assert (status, body) == (500, b"internal error; see the log\n")
        assert [entry["event"] for entry in logs] == ["ops_request_crashed"]
    finally:
        await running.stop()


async def test_requests_have_a_largest_size() -> None:
    running = await serve(make_app(), "127.0.0.1:0")
    try:
        async with aiohttp.ClientSession() as session:
            async with session.post(f"http://{running.address}/echo", data=b"x" * 1000) as answer:
                assert await answer.json() == {"size": 1000}
            async with session.post(f"http://{running.address}/echo", data=b"x" * 1001) as answer:
                assert answer.status == 413
            async with session.get(f"http://{running.address}/healthz", headers={"X": "y" * 9000}) as answer:
                assert answer.status == 400
    finally:
        await running.stop()


async def test_a_unix_socket_is_private_and_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "ops.sock"
    running = await serve(make_app(), path)
    assert running.address == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://local/healthz") as answer:
        assert answer.status == 200
    await running.stop()
    assert not path.exists()


async def test_the_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ops.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    running = await serve(make_app(), str(path))
    with pytest.raises(ListenError, match="another process listens there"):
        await serve(make_app(), path)
    await running.stop()
    path.write_text("a file")
    with pytest.raises(ListenError, match="a file that is no socket is in its place"):
        await serve(make_app(), path)
    assert path.read_text() == "a file"


async def test_addresses_that_can_not_be_had_are_refused_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ListenError, match=f"can't listen on {address}: Address already in use"):
            await serve(make_app(), address)
    with pytest.raises(ListenError, match="No such file"):
        await serve(make_app(), tmp_path / "none" / "x.sock")
    with pytest.raises(ValueError, match="is not an address"):
        await serve(make_app(), "nonsense")
    assert os.listdir(tmp_path) == []


async def test_who_connects_and_says_nothing_gives_way() -> None:
    running = await serve(make_app(), "127.0.0.1:0")
    host, port = running.address.rsplit(":", 1)
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS + 5)]
    try:
        assert (await fetch(running.address, "/healthz"))[0] == 200
        ends = [asyncio.create_task(reader.read(1)) for reader, _writer in silent]
        ended, waiting = await asyncio.wait(ends[:5], timeout=10)
        assert (len(ended), len(waiting)) == (5, 0)
        assert not ends[-1].done()
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
    finally:
        for _reader, writer in silent:
            writer.transport.abort()
        await running.stop()
