"""An edge on a loopback socket with a signer that the test holds in its hand."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from proxy.base.errors import SigningError, SigningReason, TlsReason
from proxy.base.jobs import SignJob
from proxy.base.observe import DoorDecision, ProxyObserver
from proxy.base.policy import RoutingPolicy
from proxy.config.schema import SiteConfig, TlsConfig
from proxy.edge.door import Doors
from proxy.edge.listener import EdgeListener
from proxy.edge.shared import EdgeServices, EdgeTimes
from proxy.signing.pressure import NO_PRESSURE, Pressure
from proxy.tls.contexts import Contexts, build_contexts
from proxy.tls.engine import TlsEngine
from tests.support import pki

NAME = "www.example.org"
PATIENCE_S = 10.0


async def until(is_true: Callable[[], bool], what: str = "the condition") -> None:
    """Wait until something holds; fail the test when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_S
    while not is_true():
        assert loop.time() < deadline, f"{what} did not come true within {PATIENCE_S} s"
        await asyncio.sleep(0.002)


@dataclass
class HeldJob:
    """A job that waits for the test."""

    job: SignJob
    on_done: Callable[[bytes | SigningError], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """The edge does not want it any more."""
        self.is_cancelled = True


@dataclass
class HandSigner:
    """Signs at once, or holds jobs until `release` or `refuse`."""

    keys: dict[bytes, pki.PrivateKey]
    holds: bool = False
    answers_within_submit: bool = False
    held: list[HeldJob] = field(default_factory=list)
    jobs: list[SignJob] = field(default_factory=list)

    def submit(self, job: SignJob, on_done: Callable[[bytes | SigningError], None]) -> HeldJob:
        """What the edge calls."""
        self.jobs.append(job)
        held = HeldJob(job, on_done)
        if self.holds:
            self.held.append(held)
        elif self.answers_within_submit:
            self._answer(held)
        else:
            asyncio.get_running_loop().call_soon(self._answer, held)
        return held

    def release(self) -> None:
        """Sign all that is held."""
        held, self.held = self.held, []
        for each in held:
            self._answer(each)

    def refuse(self, reason: SigningReason) -> None:
        """Refuse all that is held."""
        held, self.held = self.held, []
        for each in held:
            if not each.is_cancelled:
                each.on_done(SigningError(reason))

    def _answer(self, held: HeldJob) -> None:
        if not held.is_cancelled:
            held.on_done(pki.sign(self.keys[held.job.ski], held.job.scheme, held.job.message))


class Recorder(ProxyObserver):
    """Remembers what the edge reported."""

    def __init__(self) -> None:
        self.open = 0
        self.refused = 0
        self.handshakes = 0
        self.started: list[tuple[str, str, bool]] = []
        self.ended: list[TlsReason | None] = []
        self.failed: list[tuple[str, TlsReason]] = []
        self.crashes: list[str] = []
        self.door: list[DoorDecision] = []

    def connection_opened(self, listener: str) -> None:
        self.open += 1

    def connection_closed(self, listener: str) -> None:
        self.open -= 1

    def connection_refused(self, listener: str) -> None:
        self.refused += 1

    def handshake_started(self, listener: str) -> None:
        self.handshakes += 1

    def session_started(
        self, site: str, version: str, cipher: str, group: str, *, resumed: bool, duration_s: float
    ) -> None:
        assert duration_s >= 0
        self.started.append((site, version, resumed))

    def session_ended(self, site: str, version: str, reason: TlsReason | None) -> None:
        self.ended.append(reason)

    def handshake_failed(self, site: str, reason: TlsReason, duration_s: float) -> None:
        self.failed.append((site, reason))

    def door_decided(self, listener: str, decision: DoorDecision) -> None:
        assert listener == "https"
        self.door.append(decision)

    def task_crashed(self, name: str) -> None:
        self.crashes.append(name)


class HandDoors(Doors):
    """Let in sessions, and as many others as the test says."""

    def __init__(self) -> None:
        super().__init__(RoutingPolicy())
        self.room = 0
        self.asked: list[tuple[str, bool]] = []

    def decide(self, site: str, client_ip: str, rate_per_s: float, now: float, *, offers_session: bool) -> DoorDecision:
        self.asked.append((client_ip, offers_session))
        if offers_session:
            return DoorDecision.RESUMABLE
        self.room -= 1
        return DoorDecision.ADMITTED if self.room >= 0 else DoorDecision.SHED


class Echo(asyncio.Protocol):
    """Sends back what comes; remembers what it was told."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: list[Exception | None] = []
        self.is_paused = False
        self.had_eof = False
        self.echoes = True
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.echoes:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.had_eof = True
        return False

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Edge:
    """A listener on a loopback port, its signer, its observer and the protocols it made."""

    def __init__(
        self,
        contexts: Contexts,
        signer: HandSigner,
        times: EdgeTimes,
        max_connections: int,
        doors: Doors | None = None,
    ) -> None:
        self.signer = signer
        self.observer = Recorder()
        self.protocols: list[Echo] = []
        self.new_protocol: Callable[[], Echo] = Echo
        self.pressure = NO_PRESSURE
        self.doors = HandDoors()
        self.engines = 0
        self._contexts = contexts
        services = EdgeServices(
            new_engine=self._make_engine,
            submit=signer.submit,
            new_protocol=self._make,
            observer=self.observer,
            pressure=lambda _site: self.pressure,
            doors=doors or self.doors,
            site_of=contexts.site_named,
        )
        self.bound = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.bound.getsockname()[1]
        self.listener = EdgeListener(
            "https", services, times, max_connections=max_connections, loop=asyncio.get_running_loop()
        )

    def _make_engine(self) -> TlsEngine:
        self.engines += 1
        return TlsEngine(self._contexts)

    def _make(self) -> Echo:
        protocol = self.new_protocol()
        self.protocols.append(protocol)
        return protocol

    def run_short(self, *, room: int = 0) -> None:
        """Be short of signatures, and let in `room` full handshakes more."""
        self.pressure = Pressure(is_short=True, rate_per_s=100.0, wait_s=1.0)
        self.doors.room = room

    @property
    def protocol(self) -> Echo:
        """The only protocol that was made."""
        assert len(self.protocols) == 1
        return self.protocols[0]

    async def start(self) -> Edge:
        """Accept."""
        await self.listener.start(self.bound, 1024)
        return self

    async def stop(self) -> None:
        """Cut everything."""
        await self.listener.drain(0)
        self.listener.close()
        self.bound.close()

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client with a finished handshake."""
        async with asyncio.timeout(PATIENCE_S):
            return await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=context or client_context(), server_hostname=NAME
            )


def client_context(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client that does not verify: other tests do that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def make_contexts(folder: Path, kind: str = "p256") -> tuple[Contexts, dict[bytes, pki.PrivateKey]]:
    """Contexts of one site, and its key by SKI."""
    issued = pki.issue(pki.make_ca(), NAME, pki.shared_key(kind))
    chain = pki.write_chain(folder / "site.pem", issued)
    site = SiteConfig(names=(NAME,), certificates=(str(chain),), upstream="web", default=True)
    contexts = build_contexts(TlsConfig(), (site,), folder)
    return contexts, {contexts.site_keys[0][0]: issued.key}
