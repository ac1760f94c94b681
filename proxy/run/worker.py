"""One worker: everything a client needs, in one process with one event loop. Composition only, no decisions.

Its life: connect to the nodes, wait a moment for them, accept clients; on SIGTERM (or when the master is gone) stop
accepting, let clients finish within the drain's time, cut the rest; a second SIGTERM cuts at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.shared.hardening import harden_process
from hsm.shared.logs import configure, get_logger
from hsm.shared.open_files import allow_open_files
from hsm.shared.tasks import Tasks
from proxy.config.schema import ProxyConfig
from proxy.edge.door import Doors
from proxy.edge.listener import EdgeListener
from proxy.edge.shared import EdgeServices, EdgeTimes
from proxy.http.factory import HttpFactory
from proxy.run import metrics
from proxy.run.board import WorkerReport
from proxy.run.cells import Ledger
from proxy.run.limits import declare_limits
from proxy.run.node_reports import NodeNumbers, node_reports, reported_holders
from proxy.run.observer import PrometheusObserver
from proxy.run.place import Place
from proxy.run.prepare import signing_context
from proxy.run.process import cpu_seconds, resident_bytes, tune_collector
from proxy.run.wishes import WishFollower
from proxy.signing.membership import DiscoverySources
from proxy.signing.node import NodeStatus
from proxy.signing.signer import Signer
from proxy.tls.contexts import Contexts
from proxy.tls.engine import TlsEngine

PUBLISH_S = 0.25
"""How old numbers and readiness on the board may be."""
NODES_WAIT_S = 3.0
"""How long a new worker waits for nodes before it accepts clients anyway: some can resume without a signature."""
SHOWN_KEYS = 5
"""Keys without a node that are named; the others are counted."""
FILES_PER_CONNECTION = 2
SPARE_FILES = 256


def run_worker(place: Place) -> int:
    """Serve until told to stop. Returns the exit status: 0 after a drain, 1 when something broke."""
    process = place.config.process
    configure(f"sealgate-{place.slot}", fmt=process.log_format, level=process.log_level)
    harden_process()
    _allow_files(place.config)
    tune_collector()
    return uvloop.run(Worker(place).run())


def _allow_files(config: ProxyConfig) -> None:
    clients = sum(listener.max_connections for listener in config.listeners)
    wanted = clients * FILES_PER_CONNECTION + SPARE_FILES
    allowed = allow_open_files(wanted)
    if allowed < wanted:
        get_logger("run").warning("few_open_files_allowed", allowed=allowed, wanted=wanted, hint="raise ulimit -n")


class Worker:
    """The objects of one worker."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._config = place.config
        self._log = get_logger("run")
        self._ledger = Ledger()
        self._observer = PrometheusObserver(self._ledger)
        declare_limits(self._ledger, place.config)
        self._numbers = NodeNumbers(self._ledger, place.config)
        self._wishes = WishFollower(place.board)
        self._exit_status = 0
        self._is_accepting = False
        self._is_draining = False

    async def run(self) -> int:
        """The whole life."""
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        loop.add_reader(self._place.life_fd, self._on_master_gone)
        self._tasks = Tasks(self._on_crash)
        self._build(loop)
        await self._http.start()
        await self._signer.start()
        self._discovery.start()
        self._tasks.start(self._publish_for_ever(), name="publish")
        self._tasks.start(self._begin_to_accept(), name="accept")
        await self._stop.wait()
        await self._drain()
        self._publish()
        return self._exit_status

    def _build(self, loop: asyncio.AbstractEventLoop) -> None:
        config, contexts = self._config, self._place.contexts
        self._signer = Signer(
            config.nodes,
            config.signing,
            ssl_context=signing_context(config.signing),
            observer=self._observer,
            site_keys=contexts.site_keys,
            public_keys=_public_keys(contexts),
            routing=config.routing,
            site_weights={site.name: site.signing_weight for site in config.sites},
        )
        self._discovery = DiscoverySources(config.discovery, config.nodes, holder=self._signer, observer=self._observer)
        self._http = HttpFactory(config.sites, config.upstreams, config.http, self._observer)
        services = EdgeServices(
            new_engine=lambda: TlsEngine(contexts),
            submit=self._signer.submit,
            new_protocol=self._http,
            observer=self._observer,
            pressure=self._signer.pressure,
            doors=Doors(config.routing),
            site_of=contexts.site_named,
        )
        times = EdgeTimes(handshake_s=config.tls.handshake_timeout_s, job_s=config.signing.job_timeout_s)
        self._listeners = [
            EdgeListener(listener.name, services, times, max_connections=listener.max_connections, loop=loop)
            for listener, _ in self._place.sockets
        ]

    async def _begin_to_accept(self) -> None:
        if not await self._signer.wait_ready(NODES_WAIT_S):
            self._log.warning("no_node_yet", reason=self._unready_because(), waited_s=NODES_WAIT_S)
        if self._is_draining:
            return
        for listener, (config, bound) in zip(self._listeners, self._place.sockets, strict=True):
            await listener.start(bound, config.backlog)
        self._is_accepting = True
        self._publish()

    # the end

    def _on_sigterm(self) -> None:
        if self._is_draining:
            self._log.info("drain_cut_short")
            for listener in self._listeners:
                listener.cut_all()
        self._stop.set()

    def _on_master_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._place.life_fd)
        self._log.error("master_gone", action="draining")
        self._stop.set()

    def _on_crash(self, name: str) -> None:
        self._observer.task_crashed(name)
        if name == "accept":  # without clients a worker is of no use; the master starts another
            self._exit_status = 1
            self._stop.set()

    async def _drain(self) -> None:
        self._is_draining = True
        deadline = time.monotonic() + self._config.process.drain_timeout_s
        for listener in self._listeners:
            listener.stop_accepting()
        self._place.close_sockets()
        self._publish()
        self._http.drain()
        cut = 0
        for listener in self._listeners:
            cut += await listener.drain(max(0.0, deadline - time.monotonic()))
            listener.close()
        self._log.info("drained", cut_connections=cut)
        await self._http.stop()
        await self._discovery.stop()
        await self._signer.stop()
        await self._tasks.stop()

    # what the master and the control process read

    async def _publish_for_ever(self) -> None:
        delay = self._ledger.cells(metrics.LOOP_DELAY)[self._place.slot,]
        while True:
            self._publish()
            before = time.monotonic()
            await asyncio.sleep(PUBLISH_S)
            delay.value = max(0.0, time.monotonic() - before - PUBLISH_S)

    def _publish(self) -> None:
        slot = self._place.slot
        self._ledger.cells(metrics.WORKER_CPU)[slot,].value = cpu_seconds()
        self._ledger.cells(metrics.WORKER_MEMORY)[slot,].value = resident_bytes()
        nodes = self._nodes_as_wished()
        holders, left_out = reported_holders(self._signer.holders())
        because = self._unready_because()
        report = WorkerReport(
            slot=slot,
            incarnation=self._place.incarnation,
            pid=os.getpid(),
            generation=self._place.generation,
            at=time.monotonic(),
            is_ready=not because,
            is_draining=self._is_draining,
            unready_because=because,
            is_accepting=self._is_accepting,
            connections=sum(len(listener.connections) for listener in self._listeners),
            nodes=node_reports(nodes, self._signer.capacities()),
            holders=holders,
            keys_left_out=left_out,
            snapshot=self._ledger.snapshot(),
        )
        try:
            self._place.board.publish_worker(report)
        except OSError as error:
            self._log.warning("report_not_written", error=str(error))

    def _unready_because(self) -> str:
        if self._is_draining:
            return "draining"
        missing = {
            f"{certificate.site} ({certificate.key_type.value})": None
            for certificate in self._place.contexts.certificates
            if not self._signer.has_node_for(certificate.ski)
        }
        if missing:
            more = len(missing) - SHOWN_KEYS
            shown = [*list(missing)[:SHOWN_KEYS], *([f"{more} more"] if more > 0 else [])]
            return f"no node is up for the key of {', '.join(shown)}"
        return "" if self._is_accepting else "is starting"

    def _nodes_as_wished(self) -> list[NodeStatus]:
        """The nodes, after each was told what is asked of it."""
        nodes = self._signer.status()
        self._numbers.keep([node.name for node in nodes], time.monotonic())
        if self._wishes.follow({node.name: node.admin for node in nodes}, self._signer.set_admin):
            nodes = self._signer.status()
        return nodes


def _public_keys(contexts: Contexts) -> dict[bytes, bytes]:
    """SKI -> PEM, with which probes' signatures are verified."""
    return {
        one.ski: one.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for one in contexts.certificates
    }
