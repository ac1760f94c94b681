"""`sealgate node unseal` against a real management socket; the node behind it is a list of vaults that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from hsm.cli import unseal
from hsm.cli.node import node_app
from hsm.node.observe import NodeStatus
from hsm.node.unsealing import Unsealing
from hsm.shared.exposition import serve
from hsm.store import files
from hsm.store.master_key import SharedSecret
from hsm.store.share_text import encode
from hsm.store.shares import Share, deal

MADE = deal(2, 3)
NAME = MADE.share_set.name
STATUS = NodeStatus("node-1", "1", False, False, 0, 9, 0, 0, 0.5, (), ("main",))


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """A sealed vault that listens in a thread of its own."""
    path, started = tmp_path / "node.sock", threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def run() -> None:
        unsealing = Unsealing(tell_systemd=lambda _message: None)
        running = await serve(unsealing.app(lambda: STATUS), path)

        async def attempt(_secret: SharedSecret) -> None:
            return None

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(unsealing.open("main", MADE.share_set, attempt))
            await asyncio.sleep(0)
            started.set()
            await ended.wait()
            waiting.cancel()
        await running.stop()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    with capture_logs():  # the node's lines are not the command's
        thread.start()
        assert started.wait(10)
        yield path
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
    loop.close()


def run(socket: Path, *arguments: str | Path, typed: str = "") -> tuple[int, str]:
    command = ["unseal", "--socket", str(socket), *(str(argument) for argument in arguments)]
    result = CliRunner().invoke(node_app, command, input=typed)
    return result.exit_code, result.output


def share_file(folder: Path, share: Share) -> Path:
    path = folder / f"share-{share.index}"
    files.create_private(path, encode(share).encode())
    return path


def test_people_give_their_shares_one_by_one(socket: Path, tmp_path: Path) -> None:
    one, three = share_file(tmp_path, MADE.shares[0]), share_file(tmp_path, MADE.shares[2])
    assert run(socket, "--status") == (
        0,
        f"vault 'main': 2 of 3 shares of set {NAME} open it; given so far: none\n",
    )
    assert run(socket, "--share-file", one) == (0, f"share 1 of set {NAME} accepted, 1 more needed\n")
    status, output = run(socket, "--share-file", one)
    assert (status, output) == (1, "share 1 was given already; 1 more of the others needed\n")
    assert "given so far: 1" in run(socket, "--status")[1]
    assert run(socket, "--share-file", three) == (
        0,
        f"share 3 of set {NAME} accepted, that is enough: the vault 'main' is open\n",
    )
    assert run(socket, "--status") == (0, "nothing is sealed here: no vault of this node waits for shares\n")
    status, output = run(socket, "--share-file", one)
    assert (status, output) == (1, "nothing is sealed here: no vault of this node waits for shares\n")


def test_several_files_at_once_and_as_json(socket: Path, tmp_path: Path) -> None:
    paths = [share_file(tmp_path, share) for share in MADE.shares[:2]]
    status, output = run(socket, "--json", "--share-file", paths[0], "--share-file", paths[1])
    assert status == 0
    assert '"missing": 1, "opened": false' in output
    assert '"missing": 0, "opened": true' in output


def test_a_share_comes_from_a_pipe(socket: Path) -> None:
    assert run(socket, "--share-file", "-", typed=encode(MADE.shares[1]))[1].startswith("share 2 of set")
    status, output = run(socket, "--forget", "--json")
    assert (status, '"have": []' in output) == (0, True)


def test_a_share_is_typed(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(socket)[1].endswith(
        "a share can be typed at a terminal only; give --share-file (or - for standard input)\n"
    )
    monkeypatch.setattr(unseal, "ask_share", lambda: encode(MADE.shares[1]))
    status, output = run(socket)
    assert status == 0
    assert output.splitlines() == [
        f"vault 'main': 2 of 3 shares of set {NAME} open it; given so far: none",
        f"share 2 of set {NAME} accepted, 1 more needed",
    ]


def test_a_node_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    status, output = run(tmp_path / "none.sock")
    assert (status, output) == (1, f"there is no socket {tmp_path}/none.sock; is the node running?\n")
    status, output = run(tmp_path / "none.sock", "--share-file", tmp_path / "none")
    assert (status, output) == (1, f"{tmp_path}/none does not exist\n")
