"""One node put together: start, refresh, drain, stop. Knows every other file of the room; decides little itself.

Order of a start: no core files and no ptrace first, then the operators' page (so that /readyz can say "not yet"), then
the backend with its keys, and the listener last. A stop goes the other way.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import uvloop

from hsm.backends.base import BackendError
from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.node.factory import Opened, open_backend
from hsm.node.management import Management
from hsm.node.metrics import NodeMetrics
from hsm.node.notify import READY, STOPPING, notify
from hsm.node.observe import NodeStatus
from hsm.node.requests import ServiceLimits
from hsm.node.server import Server
from hsm.node.service import Service
from hsm.shared import logs
from hsm.shared.exposition import Health, Running, ops_app, serve
from hsm.shared.hardening import harden_process
from hsm.shared.mtls import Identity, server_context
from hsm.shared.open_files import allow_open_files
from hsm.shared.tasks import Tasks

STALE_REFRESH_S = 15.0
"""/healthz fails when the backend was not refreshed for so long."""
THREADS_STOP_TIMEOUT_S = 0.5
OTHER_FILES = 256
"""Open files besides connections of proxies: the store, operators, whoever manages keys."""


def run(path: Path) -> None:
    """`sealgate node run`: serves until SIGTERM or SIGINT. Raises ConfigError, ListenError or BackendProblem."""
    config = load_config(path)
    logs.configure("sealgate-node", fmt=config.log.format, level=config.log.level)
    harden_process()
    _allow_connections(config.listen.max_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, path.absolute().parent))


def _allow_connections(wanted: int) -> None:
    """Without enough files the kernel would refuse proxies before strangers could be made to give way to them."""
    allowed = allow_open_files(wanted + OTHER_FILES)
    if allowed < wanted + OTHER_FILES:
        hint = f"raise the limit of open files to {wanted + OTHER_FILES}, or lower listen.max_connections"
        logs.get_logger("node").warning("open_files_limit_too_low", limit=allowed, hint=hint)


async def _serve(config: NodeConfig, base_dir: Path) -> None:
    node = Node(config, base_dir)
    wanted = asyncio.Event()
    loop, starting = asyncio.get_running_loop(), asyncio.current_task()

    def end() -> None:
        """The first signal drains, or gives a start up; a second one does not wait any longer."""
        if wanted.is_set():
            node.hurry()
        elif starting is not None:
            starting.cancel()
        wanted.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, node.refuse_reload)
    try:
        await node.start()
        starting = None
        # What lives now lives until the end: the garbage collector need not look at it again.
        gc.freeze()
        await wanted.wait()
        await node.drain()
    except asyncio.CancelledError:
        if not wanted.is_set():
            raise
    finally:
        await node.stop()


class Node:
    """One HSM node. `start`, then `drain` and `stop`; `stop` alone is right after a start that failed, too."""

    def __init__(self, config: NodeConfig, base_dir: Path) -> None:
        self._config = config
        self._files = NodeFiles.of(config, base_dir)
        self._metrics = NodeMetrics()
        self._tasks = Tasks(self._metrics.task_crashed)
        self._calls = BlockingCalls()
        self._log = logs.get_logger("node")
        self._opened: Opened | None = None
        self._service: Service | None = None
        self._server: Server | None = None
        self._running: list[Running] = []
        self._started_at = time.monotonic()
        self._refreshed_at = self._started_at
        self._refreshing = asyncio.Lock()
        self._is_hurried = asyncio.Event()
        self.address = ""
        """Where proxies connect, once started."""
        self.ops_address = ""
        self.management_socket = self._files.socket

    async def start(self) -> None:
        """Opens everything. Raises ConfigError, ListenError or BackendProblem, each with sentences for the user."""
        config, files = self._config, self._files
        loop = asyncio.get_running_loop()
        context = server_context(Identity(files.ca, files.certificate, files.private_key))
        self._metrics.watch(self.status)
        ops = await serve(ops_app(self._metrics.exposition, self._health, self._ready), config.ops.address)
        self._running.append(ops)
        self.ops_address = ops.address
        self._opened = opened = await self._calls.run(lambda: open_backend(config.backend, files))
        self._service = Service(opened.backend, config.rules, _limits(config), self._metrics, loop)
        self._server = Server(self._service, context, config.listen, self._metrics, loop)
        management = Management(opened.admin, opened.refusal_of, self._metrics, self.status, self.refresh, self._calls)
        self._running.append(await serve(management.app(), files.socket))
        self._tasks.start(self._refresh_forever(), name="refresh")
        self.address = await self._server.start()
        self._log.info(
            "node_ready",
            node=config.node.name,
            address=self.address,
            ops=self.ops_address,
            management=str(files.socket),
            keys=self._service.key_count,
            pid=os.getpid(),
        )
        if not config.access:
            self._log.warning("access_list_empty", hint="every request will be denied; add [[access]] to the config")
        notify(READY)

    async def drain(self) -> None:
        """Takes no new requests, finishes those it has, for `drain_timeout_s` at most."""
        notify(STOPPING)
        assert self._server is not None
        self._log.info("node_draining", open_requests=self._service.open_requests if self._service else 0)
        draining = self._tasks.start(self._server.drain(self._config.node.drain_timeout_s), name="drain")
        hurried = self._tasks.start(self._is_hurried.wait(), name="hurry")
        await asyncio.wait((draining, hurried), return_when=asyncio.FIRST_COMPLETED)
        is_done = draining.done() and draining.result()
        hurried.cancel()
        if not is_done and self._service is not None:
            self._log.warning("drain_cut_short", open_requests=self._service.open_requests)

    def refuse_reload(self) -> None:
        """SIGHUP: without this it would end the node and lose what is in flight."""
        self._log.warning("reload_not_supported", hint="the config is read at start; restart this node, one at a time")

    def hurry(self) -> None:
        """Ends a drain at once."""
        self._is_hurried.set()

    async def stop(self) -> None:
        """Closes everything; requests still open are lost to their clients, who will ask another node."""
        await self._tasks.stop()
        if self._server is not None:
            await self._server.stop()
        for running in reversed(self._running):
            await running.stop()
        self._running.clear()
        threads_ended = self._service is None or self._service.stop(THREADS_STOP_TIMEOUT_S)
        calls_ended = await self._calls.finished(THREADS_STOP_TIMEOUT_S)
        if not threads_ended or not calls_ended:
            # Closing it would wait for them.
            self._log.error("backend_hangs", hint="a thread did not come back from the token or store; leaving it")
        elif self._opened is not None:
            self._opened.close()
        if self._opened is not None:
            self._log.info("node_stopped", node=self._config.node.name)
            self._opened = None

    async def refresh(self) -> None:
        """Takes up keys that came or went, here or through another node, and tells the clients."""
        assert self._opened is not None
        assert self._service is not None
        assert self._server is not None
        async with self._refreshing:
            before = self._service.revision
            changed = await self._calls.run(self._opened.backend.refresh)
            self._refreshed_at = time.monotonic()
            if changed:
                self._service.keys_changed()
                self._server.announce_keys(self._service.revision)
                self._log.info(
                    "keys_changed", keys=self._service.key_count, revision=self._service.revision, was=before
                )

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(self._config.node.refresh_interval_s)
            try:
                await self.refresh()
            except BackendError:
                continue  # logged by the backend; the keys it has go on signing, and /healthz tells when this lasts
            except Exception as error:
                self._log.error("refresh_failed", error=type(error).__name__)

    def status(self) -> NodeStatus:
        """How the node is now."""
        service, server = self._service, self._server
        is_listening = server is not None and server.is_listening
        is_draining = service is not None and service.is_draining
        return NodeStatus(
            name=self._config.node.name,
            version=_version(),
            is_ready=is_listening and not is_draining,
            is_draining=is_draining,
            connections=server.open_connections if server else 0,
            connections_limit=self._config.listen.max_connections,
            keys=service.key_count if service else 0,
            revision=service.revision if service else 0,
            uptime_s=time.monotonic() - self._started_at,
            lanes=service.lanes() if service else {},
        )

    def _health(self) -> Health:
        age_s = time.monotonic() - self._refreshed_at
        is_stale = self._service is not None and age_s > STALE_REFRESH_S + self._config.node.refresh_interval_s
        return Health(not is_stale, {"node": self._config.node.name, "refreshed_s_ago": round(age_s, 3)})

    def _ready(self) -> Health:
        status = self.status()
        detail = {"node": status.name, "draining": status.is_draining, "keys": status.keys}
        return Health(status.is_ready, detail)


def _limits(config: NodeConfig) -> ServiceLimits:
    admission = config.admission
    return ServiceLimits(
        threads=admission.concurrency or len(os.sched_getaffinity(0)),
        queue=admission.queue,
        cheap_queue=admission.cheap_queue,
        max_in_flight_per_client=config.listen.max_in_flight_per_connection,
        default_deadline_s=admission.default_deadline_s,
        max_deadline_s=admission.max_deadline_s,
        tick_budget_s=admission.tick_budget_s,
    )


def _version() -> str:
    try:
        return version("sealgate")
    except PackageNotFoundError:
        return "unknown"
