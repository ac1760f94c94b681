from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import cast

import pytest

from hsm.node.peers import who_is


class Connected(asyncio.Protocol):
    """Keeps the transport of the one connection."""

    def __init__(self) -> None:
        self.transport: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport.set_result(transport)


async def ask(socket_path: Path, proc: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Who is seen on a Unix connection of this very process, and on one that is closed."""
    connected = Connected()
    server = await asyncio.get_running_loop().create_unix_server(lambda: connected, str(socket_path))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(socket_path))  # the kernel takes it before the loop does
        transport = await asyncio.wait_for(connected.transport, 10)
        seen = who_is(transport, proc)
        cast("asyncio.Transport", transport).abort()
        after = who_is(transport, proc)
    server.close()
    return seen, after


@pytest.mark.parametrize(("login", "more"), [("1000", {"login_uid": 1000}), (str(2**32 - 1), {}), ("what", {})])
async def test_the_kernel_says_who_connected(login: str, more: dict[str, int], tmp_path: Path) -> None:
    mine = tmp_path / str(os.getpid())
    mine.mkdir()
    (mine / "loginuid").write_text(login)
    seen, after = await ask(tmp_path / "socket", tmp_path)
    assert seen == {"pid": os.getpid(), "uid": os.geteuid()} | more
    assert after == {}  # its number may be another connection's by now


async def test_others_are_unknown() -> None:
    assert who_is(None) == {}
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    _reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert who_is(writer.transport) == {}  # TCP: the kernel does not know
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
