"""A node that gets SIGTERM signs what it has taken, says that it drains, and ends well; nobody can read its memory."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hsm.wire.errors import ErrorCode
from hsm.wire.messages import DrainingAnnounced, Failed, Signed
from hsm.wire.schemes import KeyType, Scheme
from tests.support.node import PATIENCE_S, Link, NodeHome, make_home, verify
from tests.support.token_home import TokenHome, make_token_home
from tests.support.token_workers import token_workers_of

MANY = 600


class Program:
    """`sealgate node run`, and the ready line it printed."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process, self.ready = process, ready


TYPES = (KeyType.P256, KeyType.RSA_2048)
on_each_token = pytest.mark.parametrize("home", ["vault", "pkcs11"], indirect=True)


@pytest.fixture
def home(tmp_path: Path, request: pytest.FixtureRequest) -> NodeHome:
    is_token = getattr(request, "param", "vault") == "pkcs11"
    return make_token_home(tmp_path, TYPES) if is_token else make_home(tmp_path, TYPES)


@pytest.fixture
async def node(home: NodeHome) -> AsyncIterator[Program]:
    command = (sys.executable, "-m", "hsm", "node", "run", "--config", str(home.write_config()))
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    ready: dict[str, Any] = {}
    while ready.get("event") != "node_ready":
        line = await asyncio.wait_for(process.stderr.readline(), 20)
        ready = json.loads(line)
        assert ready["level"] == "info" or ready["event"] == "memory_not_locked", line
    yield Program(process, ready)
    if process.returncode is None:
        process.kill()
    await process.wait()


@on_each_token
async def test_what_was_taken_is_signed_and_the_exit_is_clean(node: Program, home: NodeHome) -> None:
    link = await Link.open(node.ready["address"], home.identity("proxy"))
    await link.greet()
    ski, public = home.keys["www-rsa-2048"]
    workers = token_workers_of(node.process.pid)
    assert len(workers) == isinstance(home, TokenHome)
    asked = [link.sign(ski, Scheme.RSA_PSS_SHA256, b"x") for _ in range(MANY)]
    link.flush()
    # All travel in one record: when the first is answered, all have been taken.
    assert isinstance(await link.answer(asked[0]), Signed)
    node.process.send_signal(signal.SIGTERM)
    while not any(isinstance(event, DrainingAnnounced) for event in link.events):
        assert await link.receive()
    late = link.sign(home.ski("www-p256"), Scheme.ECDSA_SHA256, b"x")
    link.flush()
    refused = await link.answer(late)
    assert isinstance(refused, Failed)
    assert refused.code is ErrorCode.DRAINING
    for request_id in asked:
        answer = await link.answer(request_id)
        assert isinstance(answer, Signed)
        verify(public, Scheme.RSA_PSS_SHA256, answer.signature, b"x")
    with pytest.raises(ConnectionError):
        await Link.open(node.ready["address"], home.identity("proxy"))
    assert await asyncio.wait_for(node.process.wait(), PATIENCE_S) == 0
    assert not any(worker.is_running() for worker in workers)
    assert not Path(node.ready["management"]).exists()
    await link.close()


async def test_systemd_is_told_of_ready_and_stopping(home: NodeHome) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(home.path / "notify"))
        systemd.settimeout(20)
        environment = {**os.environ, "NOTIFY_SOCKET": str(home.path / "notify")}
        command = (sys.executable, "-m", "hsm", "node", "run", "--config", str(home.write_config()))
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL, env=environment)
        try:
            assert await asyncio.to_thread(systemd.recv, 100) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(systemd.recv, 100) == b"STOPPING=1"
            assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@on_each_token
async def test_an_idle_node_ends_at_once_on_sigint(node: Program) -> None:
    node.process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(node.process.wait(), PATIENCE_S) == 0


async def test_the_process_writes_no_core_and_gains_no_privileges(node: Program) -> None:
    folder = Path(f"/proc/{node.process.pid}")
    assert re.search(r"^Max core file size\s+0\s+0\s", (folder / "limits").read_text(), re.MULTILINE)
    assert "NoNewPrivs:\t1" in (folder / "status").read_text()


def test_the_process_is_not_dumpable_before_it_opens_its_keys(home: NodeHome) -> None:
    probe = (
        "import ctypes, pathlib, sys\n"
        "from hsm.node import app\n"
        "async def serve(config, base_dir):\n"
        "    print(ctypes.CDLL(None).prctl(3))\n"  # PR_GET_DUMPABLE
        "app._serve = serve\n"
        "app.run(pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", probe, str(home.write_config())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    said = [json.loads(line)["event"] for line in result.stderr.splitlines()]
    assert result.stdout == "0\n"
    assert set(said) <= {"memory_not_locked"}  # where this user may not


async def test_sighup_reads_the_config_again(node: Program, home: NodeHome) -> None:
    assert node.process.stderr is not None
    link = await Link.open(node.ready["address"], home.identity("proxy"))
    ski = home.ski("www-p256")

    async def reloaded(event: str, **config: str) -> dict[str, Any]:
        home.write_config("node-1", **config)
        node.process.send_signal(signal.SIGHUP)
        assert node.process.stderr is not None
        while True:
            line = json.loads(await asyncio.wait_for(node.process.stderr.readline(), PATIENCE_S))
            if line["event"] == event:
                return dict(line)

    assert isinstance(await link.ask(ski, Scheme.ECDSA_SHA256, b"x"), Signed)
    line = await reloaded("reload_failed", rule="digest = true")
    assert "digest: unknown key; did you mean 'digests'" in str(line["problems"])
    assert isinstance(await link.ask(ski, Scheme.ECDSA_SHA256, b"x"), Signed), "a bad file changes nothing"
    line = await reloaded("reloaded", rule="digests = false")
    assert line["applied"] == ["access"]
    refused = await link.ask(ski, Scheme.ECDSA_SHA256, b"x")
    assert isinstance(refused, Failed)
    assert refused.code is ErrorCode.DENIED
    await link.close()


async def test_a_start_that_hangs_ends_on_sigterm(home: NodeHome) -> None:
    probe = (
        "import pathlib, sys, time\n"
        "from hsm.node import app\n"
        "from hsm.node.opening import vault\n"
        "def hang(*files, **more):\n"
        "    print('hangs', flush=True)\n"
        "    time.sleep(60)\n"
        "vault.open_store = hang\n"
        "app.run(pathlib.Path(sys.argv[1]))\n"
    )
    command = (sys.executable, "-c", probe, str(home.write_config()))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"hangs\n"
        process.send_signal(signal.SIGTERM)
        _out, said = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"Traceback" not in said
    assert b"backend_hangs" in said


def test_open_files_are_enough_for_the_connections_that_are_allowed(home: NodeHome) -> None:
    probe = (
        "import pathlib, resource, sys\n"
        "from hsm.node import app\n"
        "async def serve(config, base_dir):\n"
        "    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] > config.listen.max_connections)\n"
        "app._serve = serve\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[2])))\n"
        "app.run(pathlib.Path(sys.argv[1]))\n"
    )
    said = {}
    for hard in ("4096", "512"):
        command = [sys.executable, "-c", probe, str(home.write_config()), hard]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        events = [json.loads(line)["event"] for line in result.stderr.splitlines()]
        said[hard] = (result.stdout, [event for event in events if event != "memory_not_locked"])
    assert said == {"4096": ("True\n", []), "512": ("False\n", ["open_files_limit_too_low"])}
