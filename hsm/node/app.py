"""One node put together: start, refresh, drain, stop. Knows every other file of the room; decides little itself.

Order of a start: no core files, no ptrace and no swap first, then the operators' page (so that /readyz can say "not
yet"), then the tokens with their keys, and the listener last. A stop goes the other way.
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

from hsm.node.blocking import BlockingCalls
from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.node.faults import FaultRoutes
from hsm.node.management import Management
from hsm.node.metrics import NodeMetrics
from hsm.node.notify import READY, STOPPING, notify
from hsm.node.observe import NodeStatus
from hsm.node.opening.factory import needs_people, open_tokens
from hsm.node.opening.opened import OpenToken, Surroundings
from hsm.node.refreshing import TokenRefresh
from hsm.node.reload import Reload
from hsm.node.requests import ServiceLimits
from hsm.node.retry import RetryRoutes
from hsm.node.server import Server
from hsm.node.service import Service
from hsm.node.unsealing import Unsealing
from hsm.node.upkeep import TokenUpkeep, tell_all
from hsm.shared import logs
from hsm.shared.exposition import Health, Running, ops_app, serve
from hsm.shared.hardening import harden_process
from hsm.shared.mtls import Identity, server_context
from hsm.shared.open_files import allow_open_files
from hsm.shared.tasks import Tasks

STALE_REFRESH_S = 15.0
"""/healthz fails when no token told of its keys for so long."""
THREADS_STOP_TIMEOUT_S = 0.5
CLOSE_TIMEOUT_S = 5.0
UPKEEP_INTERVAL_S = 10.0
"""How often tokens are told how much was signed, and have done what is due."""
LAST_WORDS_TIMEOUT_S = 2.0
TIME_INTERVAL_S = 1.0
"""How soon clients hear of a key whose time begins or ends."""
OTHER_FILES = 256
"""Open files besides connections of proxies: the store, operators, whoever manages keys."""


def run(path: Path) -> None:
    """`sealgate node run`: serves until SIGTERM or SIGINT. Raises ConfigError, ListenError or TokenProblem."""
    config = load_config(path)
    logs.configure("sealgate-node", fmt=config.log.format, level=config.log.level)
    harden_process(locks_memory=True)
    _allow_connections(config.listen.max_connections)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, path.absolute()))


def _allow_connections(wanted: int) -> None:
    """Without enough files the kernel would refuse proxies before strangers could be made to give way to them."""
    allowed = allow_open_files(wanted + OTHER_FILES)
    if allowed < wanted + OTHER_FILES:
        hint = f"raise the limit of open files to {wanted + OTHER_FILES}, or lower listen.max_connections"
        logs.get_logger("node").warning("open_files_limit_too_low", limit=allowed, hint=hint)


async def _serve(config: NodeConfig, path: Path) -> None:
    node = Node(config, path.parent, path)
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
    loop.add_signal_handler(signal.SIGHUP, node.reload)
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

    def __init__(self, config: NodeConfig, base_dir: Path, path: Path | None = None) -> None:
        """`path` is the config's file, to be read again by a reload."""
        self._config = config
        self._files = NodeFiles.of(config, base_dir)
        self._metrics = NodeMetrics()
        self._tasks = Tasks(self._metrics.task_crashed)
        self._calls = BlockingCalls()
        self._log = logs.get_logger("node")
        self._live = config
        """The same as `_config`, but for what reloads changed."""
        self._unsealing = Unsealing()
        self._base_dir = base_dir
        self._tokens: tuple[OpenToken, ...] = ()
        self._service: Service | None = None
        self._server: Server | None = None
        self._running: list[Running] = []
        self._started_at = time.monotonic()
        self._refreshes: tuple[TokenRefresh, ...] = ()
        self._upkeeps: tuple[TokenUpkeep, ...] = ()
        self._reload = Reload(path, config, self._calls, self._apply)
        self._is_hurried = asyncio.Event()
        self.address = ""
        """Where proxies connect, once started."""
        self.ops_address = ""
        self.management_socket = self._files.socket

    async def start(self) -> None:
        """Opens everything. Raises ConfigError, ListenError or TokenProblem, each with sentences for the user."""
        config, files = self._config, self._files
        loop = asyncio.get_running_loop()
        context = server_context(Identity(files.ca, files.certificate, files.private_key))
        self._metrics.watch(self.status)
        ops = await serve(ops_app(self._metrics.exposition, self._health, self._ready), config.ops.address)
        self._running.append(ops)
        self.ops_address = ops.address
        surroundings = Surroundings(self._base_dir, self._calls, self._tasks, loop)
        self._tokens = tokens = await self._open_tokens(surroundings)
        # A reload may have come while the tokens were opened, which can take people and hours.
        live = self._live
        self._service = Service(tokens, live.rules, _limits(live), self._metrics, loop)
        self._refreshes = tuple(TokenRefresh(token, self._calls, self._keys_changed) for token in tokens)
        self._server = Server(self._service, context, config.listen, self._metrics, loop)
        management = Management(tokens, self._metrics, self.status, self.refresh, self._calls)
        routes = (
            *FaultRoutes(lambda: self._tokens)(),
            *RetryRoutes(lambda: self._tokens)(),
            *self._unsealing.routes(),
            *self._reload.routes(),
        )
        self._running.append(await serve(management.app(routes), files.socket))
        for refresh in self._refreshes:
            self._tasks.start(refresh.refresh_forever(config.node.refresh_interval_s), name=f"refresh-{refresh.name}")
        counts, name = self._service.counts, config.node.name
        self._upkeeps = tuple(TokenUpkeep(name, token, counts, self._calls) for token in tokens)
        for upkeep in self._upkeeps:
            self._tasks.start(upkeep.run_forever(UPKEEP_INTERVAL_S), name=f"upkeep-{upkeep.name}")
        self._tasks.start(self._watch_time(), name="time")
        self.address = await self._server.start()
        self._log.info(
            "node_ready",
            node=config.node.name,
            address=self.address,
            ops=self.ops_address,
            management=str(files.socket),
            keys=self._service.key_count,
            tokens=[token.name for token in tokens],
            pid=os.getpid(),
        )
        self._warn_of_empty_access(live)
        notify(READY)

    async def _open_tokens(self, surroundings: Surroundings) -> tuple[OpenToken, ...]:
        """Opens the tokens; while vaults wait for shares, the management socket takes these and nothing else."""
        configs = self._config.tokens
        if not any(needs_people(config) for config in configs):
            return await open_tokens(configs, surroundings, self._unsealing)
        self._unsealing.is_starting = True
        waiting = await serve(self._unsealing.app(self.status), self._files.socket)
        try:
            return await open_tokens(configs, surroundings, self._unsealing)
        finally:
            self._unsealing.is_starting = False
            # Whoever gave the last share is answered before this returns.
            await waiting.stop()

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

    def reload(self) -> None:
        """SIGHUP: reads the config again; the log says what took effect."""
        self._tasks.start(self._reload.reload_quietly(), name="reload")

    def _warn_of_empty_access(self, config: NodeConfig) -> None:
        if not config.access:
            self._log.warning("access_list_empty", hint="every request will be denied; add [[access]] to the config")

    def _apply(self, config: NodeConfig) -> None:
        """The live part of another config takes effect."""
        if config.log != self._live.log:
            logs.configure("sealgate-node", fmt=config.log.format, level=config.log.level)
        self._live = config
        if self._service is not None and self._server is not None:
            self._warn_of_empty_access(config)
            self._service.apply(config.rules, _limits(config))
            self._server.announce_keys(self._service.revision)

    async def _watch_time(self) -> None:
        """Tells clients of keys whose time begins or ends."""
        while True:
            await asyncio.sleep(TIME_INTERVAL_S)
            if self._service is not None and self._server is not None and self._service.has_time_changed_keys():
                self._server.announce_keys(self._service.revision)

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
        await tell_all(self._upkeeps, LAST_WORDS_TIMEOUT_S)
        hung = self._service.stop(THREADS_STOP_TIMEOUT_S) if self._service is not None else ()
        calls_ended = await self._calls.finished(THREADS_STOP_TIMEOUT_S)
        for token in self._tokens:
            if token.name in hung or (token.backend is not None and not calls_ended):
                # Closing it would wait for them.
                self._log_hang(token.name)
            else:
                await self._close(token)
        if not calls_ended and not self._tokens:
            self._log_hang("")
        if self._tokens:
            self._log.info("node_stopped", node=self._config.node.name)
            self._tokens = ()

    def _log_hang(self, token: str) -> None:
        hint = "a thread did not come back from the token or store; leaving it"
        self._log.error("backend_hangs", token=token, hint=hint)

    async def _close(self, token: OpenToken) -> None:
        try:
            await asyncio.wait_for(token.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            self._log_hang(token.name)
        except Exception as error:
            self._log.error("token_close_failed", token=token.name, error=type(error).__name__)

    async def refresh(self, token: str) -> None:
        """Takes up what changed in a token, here or through another node, and tells the clients."""
        for refresh in self._refreshes:
            if refresh.name == token:
                await refresh.refresh()

    def _keys_changed(self) -> None:
        assert self._service is not None
        assert self._server is not None
        self._service.keys_changed()
        self._server.announce_keys(self._service.revision)
        self._log.info("keys_changed", keys=self._service.key_count, revision=self._service.revision)

    def status(self) -> NodeStatus:
        """How the node is now."""
        service, server = self._service, self._server
        is_listening = server is not None and server.is_listening
        is_draining = service is not None and service.is_draining
        tokens = service.token_status() if service else ()
        return NodeStatus(
            name=self._config.node.name,
            version=_version(),
            is_ready=is_listening and not is_draining and any(token.is_up for token in tokens),
            is_draining=is_draining,
            connections=server.open_connections if server else 0,
            connections_limit=self._config.listen.max_connections,
            keys=service.key_count if service else 0,
            revision=service.revision if service else 0,
            uptime_s=time.monotonic() - self._started_at,
            tokens=tokens,
            sealed=self._unsealing.sealed,
        )

    def _health(self) -> Health:
        # A restart helps no node of which one token still answers.
        ages = {refresh.name: round(refresh.age_s, 3) for refresh in self._refreshes}
        limit_s = STALE_REFRESH_S + self._config.node.refresh_interval_s
        is_stale = bool(ages) and min(ages.values()) > limit_s
        return Health(not is_stale, {"node": self._config.node.name, "refreshed_s_ago": ages})

    def _ready(self) -> Health:
        status = self.status()
        detail: dict[str, object] = {"node": status.name, "draining": status.is_draining, "keys": status.keys}
        if status.sealed:
            detail |= {"reason": "sealed", "sealed": status.sealed}
        return Health(status.is_ready, detail)


def _limits(config: NodeConfig) -> ServiceLimits:
    admission = config.admission
    return ServiceLimits(
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
