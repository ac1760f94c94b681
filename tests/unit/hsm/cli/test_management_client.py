"""The client of the management socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hsm.cli.management_client import ManagementProblem, call, key_path, socket_of
from tests.support.node import make_home


async def test_what_is_no_node_is_said(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"SSH-2.0-nothing\r\n\r\n")
        writer.close()

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(answer, path)
    with pytest.raises(ManagementProblem, match=r"what answers at .*other\.sock is not a node"):
        await asyncio.to_thread(call, path, "GET", "/keys")
    server.close()
    await server.wait_closed()


def test_the_socket_comes_from_the_option_or_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_home(tmp_path).write_config("node-7")
    assert socket_of(Path("x.sock"), config) == Path("x.sock")
    assert socket_of(None, config) == tmp_path / "node-7.sock"
    monkeypatch.chdir(tmp_path)
    config.rename("node.toml")
    assert socket_of(None, None) == tmp_path / "node-7.sock"


def test_names_in_paths_are_quoted() -> None:
    assert key_path("a/b?c", "csr") == "/keys/a%2Fb%3Fc/csr"


async def test_a_node_that_says_nothing_useful_is_said_so(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 502 Bad\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
        writer.close()

    path = tmp_path / "other.sock"
    server = await asyncio.start_unix_server(answer, path)
    with pytest.raises(ManagementProblem, match="the node answered with status 502"):
        await asyncio.to_thread(call, path, "GET", "/keys")
    server.close()
    await server.wait_closed()
