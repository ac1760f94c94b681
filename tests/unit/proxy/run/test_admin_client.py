from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm.shared.exposition import serve
from proxy.run.admin_client import AdminProblem, list_nodes, set_state, socket_of
from proxy.run.board import Board
from proxy.run.fleet_view import Known
from proxy.run.node_admin import NodeAdminApi
from tests.support.proxy_toml import GOOD
from tests.support.reports import node_report, worker_report


@pytest.fixture
def board() -> Iterator[Board]:
    new = Board.create()
    yield new
    new.remove()


async def test_a_proxy_is_asked_through_its_socket(board: Board) -> None:
    board.publish_worker(worker_report("worker-0", 1, nodes=[node_report("a", admin="draining"), node_report("b")]))
    path = board.folder / "control.sock"
    running = await serve(NodeAdminApi(board, Known()).app(), path)
    try:
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert [node["name"] for node in await asyncio.to_thread(list_nodes, path)] == ["a", "b"]
        answer = await asyncio.to_thread(set_state, path, "a", "draining", force=False, wait_s=0.0)
        assert (answer["node"], answer["told"]) == ("a", ["worker-0"])
        with pytest.raises(AdminProblem, match="there is no node 'no/such'; the nodes are a, b"):
            await asyncio.to_thread(set_state, path, "no/such", "draining", force=False, wait_s=0.0)
    finally:
        await running.stop()


def test_the_config_names_the_socket(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(GOOD + '[control]\nsocket = "run/control.sock"\n')
    assert socket_of(None, config, "") == tmp_path / "run" / "control.sock"
    assert socket_of(Path("given"), config, "") == Path("given")


def test_where_nobody_names_it_the_proxy_is_asked_for_it(tmp_path: Path) -> None:
    config = tmp_path / "proxy.toml"
    config.write_text(GOOD + '[control]\naddress = "127.0.0.1:1"\n')
    for url, path in (("http://127.0.0.1:1", None), ("", config)):
        with pytest.raises(AdminProblem, match="no proxy answers"):
            socket_of(None, path, url)
    config.write_text("nonsense")
    with pytest.raises(AdminProblem, match="not valid TOML"):
        socket_of(None, config, "")


def test_each_failure_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with pytest.raises(AdminProblem, match=f"there is no socket {path}; is the proxy running"):
        list_nodes(path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    with pytest.raises(AdminProblem, match="nobody listens on"):
        list_nodes(path)
    listening.listen(1)

    def babble() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"I am no proxy\r\n")

    thread = threading.Thread(target=babble)
    thread.start()
    with pytest.raises(AdminProblem, match="is not a Sealgate proxy"):
        list_nodes(path)
    thread.join(5)
    listening.close()
    with pytest.raises(AdminProblem, match=r"can't connect to .*too long"):
        list_nodes(tmp_path / ("x" * 200))
