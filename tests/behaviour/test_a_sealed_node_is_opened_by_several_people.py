"""A node whose vault wants shares starts sealed; people open it one by one, and a wrong share is named."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from hsm.shared import hardening
from hsm.store.share_text import decode, encode
from hsm.store.shares import Share, deal
from hsm.wire.messages import Signed
from hsm.wire.schemes import KeyType, Scheme
from proxy.demo.processes import free_port
from tests.support.node import PATIENCE_S, Link, NodeHome, make_home, until, verify
from tests.support.softhsm import SoftToken
from tests.support.token_home import make_token_home
from tests.support.token_workers import token_workers_of

START_S = 30.0
PR_CAPBSET_DROP, CAP_SYS_PTRACE = 24, 19
WITHOUT_PTRACE = (
    "import ctypes, os, sys\n"
    f"ctypes.CDLL(None).prctl({PR_CAPBSET_DROP}, {CAP_SYS_PTRACE}, 0, 0, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)
"""Runs a program without the right to look into everybody's memory, as the node's own user would."""
SPY = "import sys; open(f'/proc/{sys.argv[1]}/mem', 'rb').close(); print('could look')"


def sealgate(*arguments: str | Path, typed: str = "") -> tuple[int, str]:
    """Runs `sealgate`, and what it said."""
    command = [sys.executable, "-m", "hsm", *(str(argument) for argument in arguments)]
    run = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, run.stdout + run.stderr


class Program:
    """`sealgate node run`; its log is read from a file."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, ops: str, socket: Path) -> None:
        self.process, self.log, self.ops, self.socket = process, log, ops, socket

    def events(self) -> list[dict[str, Any]]:
        """What it logged so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def event(self, name: str) -> dict[str, Any]:
        """The one line of this name."""
        (found,) = [event for event in self.events() if event["event"] == name]
        return found

    def has(self, name: str) -> Callable[[], bool]:
        """Whether it logged this."""
        return lambda: any(event["event"] == name for event in self.events())

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """The operators' page."""
        try:
            with urllib.request.urlopen(f"http://{self.ops}{path}", timeout=PATIENCE_S) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def unseal(self, *arguments: str | Path, typed: str = "") -> tuple[int, str]:
        """`sealgate node unseal`."""
        return sealgate("node", "unseal", "--socket", self.socket, *arguments, typed=typed)


class House:
    """A vault that 2 of 3 shares open, and nodes on it."""

    def __init__(self, home: NodeHome) -> None:
        self.home = home
        self.share_files = self.new_shares("first", "--old-key-file", home.key_file)
        self.programs: list[Program] = []

    def new_shares(self, name: str, *old: str | Path) -> list[Path]:
        folder = self.home.path / name
        folder.mkdir(mode=0o700)
        status, said = sealgate(
            "vault", "rewrap", "--store", self.home.store, *old, "--shares", "2/3", "--share-dir", folder
        )
        assert status == 0, said
        return sorted(folder.iterdir())

    def share(self, number: int) -> Share:
        share = decode(self.share_files[number - 1].read_text())
        assert isinstance(share, Share)
        return share

    async def start(self, tokens: str = "", *, wrapper: tuple[str, ...] = ()) -> Program:
        ops, number = f"127.0.0.1:{free_port()}", len(self.programs)
        tokens = tokens or f'[[tokens]]\nname = "main"\ntype = "vault"\nstore = "{self.home.store}"\nshares = true\n'
        config = self.home.write_config(f"node-{number}", tokens=tokens)
        config.write_text(config.read_text().replace('[ops]\naddress = "127.0.0.1:0"', f'[ops]\naddress = "{ops}"'))
        log = self.home.path / f"node-{number}.log"
        command = [*wrapper, sys.executable, "-m", "hsm", "node", "run", "--config", str(config)]
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stderr=file)
        program = Program(process, log, ops, self.home.path / f"node-{number}.sock")
        self.programs.append(program)
        return program

    async def sealed(self, **more: Any) -> Program:
        program = await self.start(**more)
        await until(program.has("vault_sealed"), "vault_sealed", START_S)
        return program


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(make_home(tmp_path))
    yield house
    for program in house.programs:
        with contextlib.suppress(ProcessLookupError):
            program.process.kill()
        await program.process.wait()


async def test_two_people_open_a_node_that_started_sealed(house: House) -> None:
    node = await house.sealed()
    sealed = node.event("vault_sealed")
    name, token = sealed["set"], "main"
    assert (sealed["needed"], sealed["of"]) == (2, 3)

    assert node.ask("/healthz")[0] == 200
    status, ready = node.ask("/readyz")
    assert (status, ready["reason"], ready["sealed"]) == (503, "sealed", [token])
    assert "sealed (main): give its shares" in sealgate("node", "status", "--socket", node.socket)[1]
    status, said = sealgate("key", "list", "--socket", node.socket)
    assert (status, "give the shares of its vault with `sealgate node unseal`" in said) == (1, True)

    # What people do wrong is named, and costs nothing.
    mistyped = encode(house.share(1)).split()
    mistyped[8] = mistyped[8][1] + mistyped[8][0] + mistyped[8][2:] if len(set(mistyped[8][:2])) == 2 else "AAAAA"
    forged = encode(dataclasses.replace(house.share(2), body=os.urandom(32)))
    other = deal(2, 3).shares[0]
    for text, words in (
        (" ".join(mistyped), "group 9 (line 2, word 3) is mistyped"),
        (forged, "share 2 is not the one that was made for this vault"),
        (encode(other), f"share 1 of set {other.set_id.hex()} belongs to another vault"),
    ):
        status, said = node.unseal("--share-file", "-", typed=text)
        assert (status, words in said) == (1, True), said

    assert node.unseal("--share-file", house.share_files[2]) == (0, f"share 3 of set {name} accepted, 1 more needed\n")
    status, said = node.unseal("--share-file", house.share_files[2])
    assert (status, said) == (1, "share 3 was given already; 1 more of the others needed\n")
    assert "given so far: 3" in node.unseal("--status")[1]
    assert node.process.returncode is None
    assert not node.has("node_ready")()

    typed = await asyncio.to_thread(type_share, node, encode(house.share(1)))
    assert f"share 1 of set {name} accepted, that is enough: the vault 'main' is open" in typed
    assert not any(group in typed for group in encode(house.share(1)).split())  # it was not echoed

    await until(node.has("node_ready"), "node_ready", START_S)
    assert node.ask("/readyz")[0] == 200
    link = await Link.open(node.event("node_ready")["address"], house.home.identity("proxy"))
    ski, public = house.home.keys["www-p256"]
    answer = await link.ask(ski, Scheme.ECDSA_SHA256, b"hello")
    assert isinstance(answer, Signed)
    verify(public, Scheme.ECDSA_SHA256, answer.signature, b"hello")
    await link.close()
    assert "nothing is sealed here" in node.unseal("--status")[1]
    assert "www-p256" in sealgate("key", "list", "--socket", node.socket)[1]

    node.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(node.process.wait(), PATIENCE_S) == 0
    accepted = [event for event in node.events() if event["event"] == "share_accepted"]
    assert [(event["share"], event["uid"]) for event in accepted] == [(3, os.geteuid()), (1, os.geteuid())]
    said = node.log.read_text()
    for text in [path.read_text() for path in house.share_files] + [forged, " ".join(mistyped), encode(other)]:
        assert not any(re.fullmatch("[A-Z2-7]{5}", group) and group in said for group in text.split())


def type_share(node: Program, text: str) -> str:
    """What the screen shows while somebody pastes a share of three lines."""
    keyboard, terminal = pty.openpty()
    command = [sys.executable, "-m", "hsm", "node", "unseal", "--socket", str(node.socket)]
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        screen, is_typed = b"", False
        with contextlib.suppress(OSError):  # the terminal is gone when the command ends
            while chunk := os.read(keyboard, 4096):
                screen += chunk
                if not is_typed and b"several):" in screen:
                    is_typed = os.write(keyboard, text.encode() + b"\n") > 0
        assert process.wait(PATIENCE_S) == 0, screen
    os.close(keyboard)
    return screen.decode()


async def test_a_sealed_node_ends_at_once_on_sigterm_and_forgets(house: House) -> None:
    node = await house.sealed()
    assert node.unseal("--share-file", house.share_files[0])[0] == 0
    node.process.send_signal(signal.SIGHUP)  # a reload while it is sealed must not end it
    node.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(node.process.wait(), PATIENCE_S) == 0
    assert not node.socket.exists()
    said = node.log.read_text()
    assert "Traceback" not in said
    assert "task_crashed" not in said
    again = await house.sealed()
    assert "given so far: none" in again.unseal("--status")[1]


async def test_shares_that_were_replaced_open_it_no_longer(house: House) -> None:
    old = [part for path in house.share_files[1:] for part in ("--old-share-file", path)]
    newer = house.new_shares("second", *old)
    node = await house.sealed()
    status, said = node.unseal("--share-file", house.share_files[0])
    assert (status, "belongs to another vault, or to shares that were replaced" in said) == (1, True)
    status, said = node.unseal("--share-file", newer[0], "--share-file", newer[2], "--json")
    assert (status, '"opened": true' in said) == (0, True), said
    await until(node.has("node_ready"), "node_ready", START_S)


async def test_the_memory_of_a_running_node_is_its_own(house: House) -> None:
    wrapper = (sys.executable, "-c", WITHOUT_PTRACE)
    node = await house.sealed(wrapper=wrapper)
    node.unseal("--share-file", house.share_files[0], "--share-file", house.share_files[1])
    await until(node.has("node_ready"), "node_ready", START_S)

    def look(pid: int) -> tuple[int, str]:
        spy = subprocess.run(
            [*wrapper, sys.executable, "-c", SPY, str(pid)], capture_output=True, text=True, timeout=60, check=False
        )
        return spy.returncode, spy.stdout + spy.stderr

    with subprocess.Popen([*wrapper, "/bin/sleep", "60"]) as ordinary:
        await until(lambda: Path(f"/proc/{ordinary.pid}/comm").read_text() == "sleep\n", "sleep")
        assert look(ordinary.pid) == (0, "could look\n")  # else the next line would prove nothing
        ordinary.kill()
    status, said = look(node.process.pid)
    assert (status, "PermissionError" in said) == (1, True), said
    assert re.search(r"^Max core file size\s+0\s+0\s", Path(f"/proc/{node.process.pid}/limits").read_text(), re.M)


@pytest.mark.skipif(not hardening._has_lock_capability(), reason="this user may not lock memory")
async def test_the_memory_of_a_running_node_stays_off_the_swap_device(house: House) -> None:
    node = await house.sealed()
    node.unseal("--share-file", house.share_files[0], "--share-file", house.share_files[1])
    await until(node.has("node_ready"), "node_ready", START_S)
    assert_locked(node.process.pid)
    assert not node.has("memory_not_locked")()


@pytest.mark.skipif(not hardening._has_lock_capability(), reason="this user may not lock memory")
async def test_the_memory_of_a_token_worker_stays_off_the_swap_device(tmp_path: Path) -> None:
    """The process that holds the HSM's PIN and runs its maker's library."""
    home = make_token_home(tmp_path, (KeyType.P256,))
    log = tmp_path / "log"
    command = (sys.executable, "-m", "hsm", "node", "run", "--config", str(home.write_config()))
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, stderr=file)
    try:
        await until(lambda: b'"node_ready"' in log.read_bytes(), "node_ready", START_S)
        (worker,) = token_workers_of(process.pid)
        assert_locked(worker.pid)
        assert re.search(r"^Max core file size\s+0\s+0\s", Path(f"/proc/{worker.pid}/limits").read_text(), re.M)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), START_S)


def assert_locked(pid: int) -> None:
    """Whether nothing that a process writes to can be swapped out, and nothing was filled in advance."""
    sizes = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "kB" in line)
    kib = {name: int(value.split()[0]) for name, value in sizes.items()}
    assert kib["VmLck"] > 0.9 * kib["VmSize"]
    assert kib["VmRSS"] < kib["VmSize"]
    flags: list[set[str]] = []
    is_writable = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if area := re.match(r"^[0-9a-f]+-[0-9a-f]+ .(.)", line):
            is_writable = area[1] == "w"
        elif is_writable and line.startswith("VmFlags:"):
            flags.append(set(line.split()[1:]))
    assert flags
    # proc(5): "lo" is a locked area. Buffers shared with the kernel (io, de) can't be locked, and are its own.
    assert [area for area in flags if not area & {"lo", "io", "de"}] == []


async def test_a_key_in_an_hsm_opens_a_node_without_people(house: House) -> None:
    folder = house.home.path / "hsm"
    folder.mkdir()
    soft = SoftToken(folder, label="wrapping").init()
    uri = f"pkcs11:token=wrapping;object=vault-key?module-path={soft.module}&pin-source=file:{soft.pin_file()}"
    old = [part for path in house.share_files[:2] for part in ("--old-share-file", path)]
    os.environ.update(soft.environment)
    try:
        status, said = sealgate("vault", "rewrap", "--store", house.home.store, *old, "--wrapping-key", uri)
    finally:
        for name in soft.environment:
            del os.environ[name]
    assert (status, "opened by a wrapping key in a PKCS#11 token (vault-key)" in said) == (0, True), said
    assert "opened by a wrapping key" in sealgate("vault", "show", "--store", house.home.store)[1]
    variables = ", ".join(f'{name} = "{value}"' for name, value in soft.environment.items())
    tokens = (
        f'[[tokens]]\nname = "main"\ntype = "vault"\nstore = "{house.home.store}"\n'
        f'wrapping_key = "{uri}"\nenvironment = {{ {variables} }}\n'
    )
    node = await house.start(tokens)
    await until(node.has("node_ready"), "node_ready", START_S)
    assert node.event("node_ready")["keys"] == 2
    soft.wipe()
    status, said = sealgate("node", "check", "--config", house.home.path / "node-0.toml")
    assert (status, "can't open the vault of token 'main': the wrapping key 'vault-key' can't be used" in said) == (
        1,
        True,
    ), said
    assert soft.pin not in said + node.log.read_text()
