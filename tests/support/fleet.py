"""A real `sealgate proxy run` in a process of its own, with a fake node and a web server in the test's event loop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.support import pki
from tests.support.edge import until
from tests.support.fake_node import FakeKey, FakeNode, LinkPki

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
NAME = "www.example.org"
PATIENCE_S = 20.0


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run what blocks (a client) while the event loop serves (the node, the web server)."""
    call = partial(function, *args, **kwargs)
    return await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(None, call), PATIENCE_S)


class Web:
    """A web server that answers everything with 200; paths with `hold` wait until `release` is set."""

    def __init__(self) -> None:
        self.requests = 0
        self.release = asyncio.Event()

    async def start(self) -> Web:
        """Listen on a port that the kernel chooses."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def stop(self) -> None:
        """Close the listener."""
        self.release.set()
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                if b"hold" in head.split(b"\r\n")[0]:
                    await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class ProxyProcess:
    """The master and its children, and what they print."""

    def __init__(self, folder: Path, node: FakeNode, web: Web) -> None:
        self.folder = folder
        self.node = node
        self.web = web
        self.config = folder / "proxy.toml"
        self.out = ""
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The master's."""
        assert self._process is not None
        return self._process.pid

    def write_config(
        self,
        link: LinkPki,
        *,
        workers: int = 2,
        extra_process: str = "",
        extra_signing: str = "",
        listen: str = "127.0.0.1:0",
    ) -> None:
        """A config of one site; ports are the kernel's choice."""
        self.config.write_text(
            f'[process]\nworkers = {workers}\nlog_format = "console"\n{extra_process}\n'
            f'[control]\naddress = "127.0.0.1:0"\n'
            f'[[listeners]]\naddress = "{listen}"\n'
            f'[[sites]]\nnames = ["{NAME}"]\ncertificates = ["site.pem"]\nupstream = "web"\ndefault = true\n'
            f'[[upstreams]]\nname = "web"\nservers = ["127.0.0.1:{self.web.port}"]\n'
            f'[[nodes]]\nname = "{self.node.name}"\naddress = "127.0.0.1:{self.node.port}"\n'
            f'[signing]\nca = "{link.ca}"\ncertificate = "{link.proxy.certificate}"\n'
            f'private_key = "{link.proxy.private_key}"\n{extra_signing}\n'
        )

    async def start(self) -> ProxyProcess:
        """Start it; `wait_ready` for its line."""
        with (self.folder / "out.log").open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "proxy", "run", "--config", str(self.config)),
                stdout=out,
                stderr=asyncio.subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(self.folder)},
            )
        return self

    def log(self) -> str:
        """All output so far."""
        return (self.folder / "out.log").read_text()

    async def wait_ready(self) -> None:
        """Until the ready line; reads the addresses from it."""
        async with asyncio.timeout(PATIENCE_S):
            while " ready: " not in self.log():
                assert self._process is not None
                assert self._process.returncode is None, self.log()
                await asyncio.sleep(0.02)
        line = next(line for line in self.log().splitlines() if " ready: " in line)
        self.port = int(line.split("https://127.0.0.1:")[1].split(";")[0])
        self.control = line.split("control ")[1].strip()

    def send(self, number: signal.Signals) -> None:
        """A signal to the master."""
        os.kill(self.pid, number)

    async def wait_exit(self) -> int:
        """The master's exit status."""
        assert self._process is not None
        async with asyncio.timeout(PATIENCE_S):
            return await self._process.wait()

    async def get(self, path: str) -> tuple[int, str]:
        """Ask the control address."""

        def ask() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(self.control + path, timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await in_thread(ask)

    async def status(self) -> dict[str, Any]:
        """`/status`."""
        return json.loads((await self.get("/status"))[1])

    async def metric(self, name: str) -> float:
        """Sum of one metric's samples."""
        _, text = await self.get("/metrics")
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((name + "{", name + " "))
        )

    async def stop(self) -> None:
        """End it, however it is; nothing of it stays."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


async def make_proxy(folder: Path, **config: Any) -> ProxyProcess:
    """A node, a web server and a proxy that is configured but not started."""
    link = LinkPki.make(folder)
    key = FakeKey.make("p256")
    issued = pki.issue(pki.make_ca(), NAME, key.key)
    pki.write_chain(folder / "site.pem", issued)
    node = await FakeNode("node-1", link, [key]).start()
    proxy = ProxyProcess(folder, node, await Web().start())
    proxy.write_config(link, **config)
    return proxy


__all__ = ["NAME", "ProxyProcess", "Web", "in_thread", "make_proxy", "until"]
