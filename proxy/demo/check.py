"""`sealgate demo --check`: a node is killed under load, comes back, and no request may notice.

Clients fetch the page over new connections without resumption, so that every request needs a signature; they take turns
in TLS 1.2 and 1.3 and in the kinds of keys. Half-way one node gets SIGKILL, later it is started again and has to sign
again. The verdict is one JSON object.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hsm.shared.tasks import Tasks
from proxy.demo.cluster import Cluster
from proxy.demo.scrape import ProxyFigures, scrape_proxy

REQUEST_TIMEOUT_S = 10.0
RECOVERY_TIMEOUT_S = 20.0
PUBLISH_TIMEOUT_S = 3.0
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Way:
    """One way to shake hands."""

    site: str
    version: ssl.TLSVersion


def ways_of(cluster: Cluster) -> list[Way]:
    """Every site in both versions of TLS."""
    return [
        Way(site, version) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) for site in cluster.chains
    ]


@dataclass(slots=True)
class Verdict:
    """What the check saw; `is_good` decides the exit status."""

    backend: str = ""
    requests: int = 0
    failed: int = 0
    signatures_by_node: dict[str, int] = field(default_factory=dict)
    failover_ms_max: float = 0.0
    recovered: bool = False
    killed: str = ""
    first_failure: str = ""
    request_ms_max_before: float = 0.0
    handshakes: dict[str, int] = field(default_factory=dict)
    """By version and by the key of the certificate that the client got."""
    missing: list[str] = field(default_factory=list)
    """What no client managed, of every site in both versions."""

    @property
    def is_good(self) -> bool:
        """No request failed, no way to shake hands is missing, every node signed, and the killed one came back."""
        has_all = not self.missing and all(self.signatures_by_node.values())
        return self.failed == 0 and self.requests > 0 and self.recovered and has_all

    def to_json(self) -> str:
        """One line for machines."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        for name in ("failover_ms_max", "request_ms_max_before"):
            fields[name] = round(fields[name], 1)
        return json.dumps(fields)


def client_context(ca: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client that verifies the certificate and never resumes (a fresh context keeps no sessions by itself)."""
    context = ssl.create_default_context(cafile=ca)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


async def fetch(context: ssl.SSLContext, port: int, path: str = "/", site: str = "localhost") -> tuple[str, bytes]:
    """One request over one new connection; returns the kind of handshake and the body.

    Raises `OSError` or `ValueError`.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=site)
    try:
        kind = _kind_of(writer.get_extra_info("ssl_object"))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(-1)
    finally:
        writer.close()
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"unexpected answer {answer[:60]!r}")
    return kind, body


def _kind_of(tls: ssl.SSLObject) -> str:
    """For example "TLSv1.3 rsa-2048"."""
    return f"{tls.version()} {_key_type(tls.getpeercert(binary_form=True) or b'')}"


@functools.lru_cache(maxsize=64)
def _key_type(certificate: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = x509.load_der_x509_certificate(certificate).public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    return f"p{key.key_size}" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__


class Check:
    """Runs the load and the fault against a running cluster."""

    def __init__(self, cluster: Cluster, seconds: float, say: Callable[[str], None]) -> None:
        self._cluster, self._seconds, self._say = cluster, seconds, say
        self._ways = ways_of(cluster)
        self._contexts = {way.version: client_context(str(cluster.ca), way.version) for way in self._ways}
        self._verdict = Verdict(cluster.spec.backend)
        self._handshakes: Counter[str] = Counter()
        self._missing = set(self._ways)
        self._is_over = False
        self._is_disturbed = False

    async def run(self) -> Verdict:
        """The whole play; takes `seconds` plus the time the killed node needs to come back."""
        tasks = Tasks()
        clients = [tasks.start(self._client(number), name=f"client-{number}") for number in range(CLIENTS)]
        try:
            await self._play()
        finally:
            self._is_over = True
            await asyncio.wait(clients, timeout=REQUEST_TIMEOUT_S + 1)
            await tasks.stop()
        self._verdict.signatures_by_node = await self._signatures()
        self._verdict.handshakes = dict(sorted(self._handshakes.items()))
        self._verdict.missing = sorted(f"{way.version.name} {way.site}" for way in self._missing)
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

    async def _client(self, number: int) -> None:
        verdict = self._verdict
        ways = itertools.cycle(self._ways[number % len(self._ways) :] + self._ways[: number % len(self._ways)])
        while not self._is_over:
            way = next(ways)
            begin = time.monotonic()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    kind, body = await fetch(self._contexts[way.version], self._cluster.port, site=way.site)
                if b"You reached" not in body:
                    raise ValueError(f"unexpected page {body[:60]!r}")
                self._handshakes[kind] += 1
                self._missing.discard(way)
            except (OSError, ValueError) as error:
                verdict.failed += 1
                verdict.first_failure = verdict.first_failure or f"{type(error).__name__}: {error}"
            verdict.requests += 1
            took_ms = (time.monotonic() - begin) * 1e3
            if self._is_disturbed:
                verdict.failover_ms_max = max(verdict.failover_ms_max, took_ms)
            else:
                verdict.request_ms_max_before = max(verdict.request_ms_max_before, took_ms)
