"""`sealgate demo --check`: a node is killed under load, comes back, and no request may notice.

Clients fetch the page over new connections without resumption, so that every request needs a signature. Half-way one
node gets SIGKILL, later it is started again and has to sign again. The verdict is one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hsm.shared.tasks import Tasks
from proxy.demo.cluster import Cluster
from proxy.demo.scrape import ProxyFigures, scrape_proxy

REQUEST_TIMEOUT_S = 10.0
RECOVERY_TIMEOUT_S = 20.0
PUBLISH_TIMEOUT_S = 3.0
CLIENTS = 8


@dataclass(slots=True)
class Verdict:
    """What the check saw; `is_good` decides the exit status."""

    requests: int = 0
    failed: int = 0
    signatures_by_node: dict[str, int] = field(default_factory=dict)
    failover_ms_max: float = 0.0
    recovered: bool = False
    killed: str = ""
    first_failure: str = ""
    request_ms_max_before: float = 0.0

    @property
    def is_good(self) -> bool:
        """No request failed, every node signed, and the killed one came back."""
        return self.failed == 0 and self.requests > 0 and self.recovered and all(self.signatures_by_node.values())

    def to_json(self) -> str:
        """One line for machines."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name in ("failover_ms_max", "request_ms_max_before"):
            fields[name] = round(fields[name], 1)
        return json.dumps(fields)


def client_context(ca: str) -> ssl.SSLContext:
    """A client that verifies the certificate and never resumes (a fresh context keeps no sessions by itself)."""
    return ssl.create_default_context(cafile=ca)


async def fetch(context: ssl.SSLContext, port: int, path: str = "/") -> bytes:
    """One request over one new connection; returns the body or raises `OSError` or `ValueError`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(-1)
    finally:
        writer.close()
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"unexpected answer {answer[:60]!r}")
    return body


class Check:
    """Runs the load and the fault against a running cluster."""

    def __init__(self, cluster: Cluster, seconds: float, say: Callable[[str], None]) -> None:
        self._cluster, self._seconds, self._say = cluster, seconds, say
        self._context = client_context(str(cluster.ca))
        self._verdict = Verdict()
        self._is_over = False
        self._is_disturbed = False

    async def run(self) -> Verdict:
        """The whole play; takes `seconds` plus the time the killed node needs to come back."""
        tasks = Tasks()
        clients = [tasks.start(self._client(), name=f"client-{number}") for number in range(CLIENTS)]
        try:
            await self._play()
        finally:
            self._is_over = True
            await asyncio.wait(clients, timeout=REQUEST_TIMEOUT_S + 1)
            await tasks.stop()
        self._verdict.signatures_by_node = await self._signatures()
        return self._verdict

    async def _signatures(self) -> dict[str, int]:
        """Signatures by node, once the workers have published what they did last."""
        deadline = time.monotonic() + PUBLISH_TIMEOUT_S
        while True:
            figures = await self._figures()
            counts = {name: int(figures.signatures.get(name, 0)) for name in self._cluster.nodes}
            if sum(counts.values()) >= self._verdict.requests - self._verdict.failed or time.monotonic() > deadline:
                return counts
            await asyncio.sleep(0.1)

    async def _play(self) -> None:
        victim = next(iter(self._cluster.nodes))
        self._verdict.killed = victim
        await asyncio.sleep(self._seconds / 2)
        self._say(f"{self._verdict.requests} requests so far, {self._verdict.failed} failed; SIGKILL to {victim}")
        self._is_disturbed = True
        await asyncio.to_thread(self._cluster.node_programs[victim].kill)
        await asyncio.sleep(self._seconds / 2)
        before = (await self._figures()).signatures.get(victim, 0)
        self._say(f"{self._verdict.requests} requests so far, {self._verdict.failed} failed; starting {victim} again")
        await asyncio.to_thread(self._cluster.start_node, victim)
        self._verdict.recovered = await self._signs_again(victim, before)
        self._say(f"{victim} {'signs again' if self._verdict.recovered else 'did not come back'}")

    async def _signs_again(self, node: str, before: float) -> bool:
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        while time.monotonic() < deadline:
            figures = await self._figures()
            if figures.is_up.get(node) and figures.signatures.get(node, 0) > before:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _figures(self) -> ProxyFigures:
        return await asyncio.to_thread(scrape_proxy, self._cluster.control_url)

    async def _client(self) -> None:
        verdict = self._verdict
        while not self._is_over:
            begin = time.monotonic()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    body = await fetch(self._context, self._cluster.port)
                if b"You reached" not in body:
                    raise ValueError(f"unexpected page {body[:60]!r}")
            except (OSError, ValueError) as error:
                verdict.failed += 1
                verdict.first_failure = verdict.first_failure or f"{type(error).__name__}: {error}"
            verdict.requests += 1
            took_ms = (time.monotonic() - begin) * 1e3
            if self._is_disturbed:
                verdict.failover_ms_max = max(verdict.failover_ms_max, took_ms)
            else:
                verdict.request_ms_max_before = max(verdict.request_ms_max_before, took_ms)
