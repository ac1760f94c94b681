"""The control process: /metrics, /healthz, /readyz and /status of the whole fleet, from what is on the board.

It serves no client traffic and holds no key, so a slow scrape or a crash here touches nobody's handshake.
"""

from __future__ import annotations

import asyncio
import platform
import signal
from collections.abc import Sequence
from typing import Any

import uvloop
from aiohttp import web

from hsm.shared.exposition import Health, json_response, ops_app
from hsm.shared.hardening import harden_process
from proxy import __version__
from proxy.base.observe import NodeState
from proxy.run import metrics
from proxy.run.board import Board, MasterReport, WorkerReport, is_fresh
from proxy.run.cells import Ledger, Snapshot, merge
from proxy.run.place import Place
from proxy.run.scrape import exposition

STOP_TIMEOUT_S = 2.0


def run_control(place: Place) -> int:
    """Serve until SIGTERM, or until the master is gone. Returns the exit status."""
    harden_process()
    uvloop.run(_serve(place))
    return 0


async def _serve(place: Place) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(place.life_fd, _on_master_gone, place, stop)
    app = control_app(Control(place.board))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT_S)
    await runner.setup()
    assert place.control is not None
    await web.SockSite(runner, place.control.dup()).start()
    await stop.wait()
    await runner.cleanup()


def _on_master_gone(place: Place, stop: asyncio.Event) -> None:
    """Nobody else is left to tidy up; workers that still drain report into the void."""
    asyncio.get_running_loop().remove_reader(place.life_fd)
    place.board.remove()
    stop.set()


def control_app(control: Control) -> web.Application:
    """The HTTP application."""
    return ops_app(control.metrics, control.health, control.ready, [web.get("/status", control.serve_status)])


class Control:
    """Answers from the board."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def metrics(self) -> bytes:
        """All metrics, summed over the workers that are and were."""
        workers, past = self._board.living_and_past()
        living = [report.snapshot for report in workers]
        if (master := self._board.master()) is not None:
            living.append(fleet_numbers(master, workers))
        families = metrics.FAMILIES.values()
        return exposition(families, merge(families, living, [past.snapshot]))

    def health(self) -> Health:
        """Whether the master is there."""
        master = self._board.master()
        return Health(ok=master is not None)

    def ready(self) -> Health:
        """Whether every worker can serve a new client now."""
        reasons = unready_reasons(self._board.master(), self._board.workers())
        return Health(ok=not reasons, detail={"reasons": reasons} if reasons else {})

    async def serve_status(self, _request: web.Request) -> web.Response:
        """`/status`."""
        return json_response(status(self._board.master(), self._board.workers()))


def unready_reasons(master: MasterReport | None, workers: Sequence[WorkerReport]) -> list[str]:
    """Why the proxy should get no new clients; empty when it should."""
    if master is None:
        return ["the master has not reported"]
    if master.is_draining:
        return ["draining"]
    by_slot = {report.slot: report for report in workers}
    reasons = []
    for slot in master.slots:
        if not slot.name.startswith("worker-"):
            continue
        report = by_slot.get(slot.name)
        if slot.pid == 0 or report is None or report.pid != slot.pid:
            reasons.append(f"{slot.name}: is starting")
        elif not is_fresh(report):
            reasons.append(f"{slot.name}: has not reported for a while")
        elif not report.is_ready:
            reasons.append(f"{slot.name}: {report.unready_because or 'is not ready'}")
    return reasons


def status(master: MasterReport | None, workers: Sequence[WorkerReport]) -> dict[str, Any]:
    """The whole fleet as one JSON object."""
    reasons = unready_reasons(master, workers)
    return {
        "version": __version__,
        "master": master,
        "ready": not reasons,
        "reasons": reasons,
        "workers": [_worker_status(report) for report in workers],
        "nodes": _nodes_status(workers),
        "sessions": _sessions(workers),
    }


def _worker_status(report: WorkerReport) -> dict[str, Any]:
    return {
        "slot": report.slot,
        "pid": report.pid,
        "generation": report.generation,
        "ready": report.is_ready and is_fresh(report),
        "draining": report.is_draining,
        "connections": report.connections,
        "sessions": _sessions([report]),
        "nodes": report.nodes,
    }


def _nodes_status(workers: Sequence[WorkerReport]) -> list[dict[str, Any]]:
    """Each node once: up where every worker sees it up."""
    joined: dict[str, dict[str, Any]] = {}
    for report in workers:
        for node in report.nodes:
            entry = joined.setdefault(
                node.name,
                {
                    "name": node.name,
                    "address": node.address,
                    "states": {},
                    "up": True,
                    "in_flight": 0,
                    "signatures": 0,
                    "failures": 0,
                    "last_error": "",
                },
            )
            entry["states"][report.slot] = node.state
            entry["up"] = entry["up"] and node.state == NodeState.UP
            entry["in_flight"] += node.in_flight
            entry["signatures"] += node.signatures
            entry["failures"] += node.failures
            entry["last_error"] = node.last_error or entry["last_error"]
    return list(joined.values())


def _sessions(workers: Sequence[WorkerReport]) -> dict[str, int]:
    return {"active": _total(workers, metrics.SESSIONS_ACTIVE.name), "total": _total(workers, metrics.SESSIONS.name)}


def _total(workers: Sequence[WorkerReport], name: str) -> int:
    return int(sum(value for report in workers for _, value in report.snapshot.numbers.get(name, ())))


def fleet_numbers(master: MasterReport, workers: Sequence[WorkerReport]) -> Snapshot:
    """What the master and the reports themselves say, as metrics."""
    ledger = Ledger()
    ledger.cells(metrics.BUILD_INFO)[master.version, platform.python_version()].value = 1
    ledger.cells(metrics.GENERATION)[()].value = master.generation
    states = ledger.cells(metrics.WORKERS)
    for state in ("running", "ready", "draining"):
        states[state,].value = 0
    for slot in master.slots:
        role = slot.name.partition("-")[0]
        ledger.cells(metrics.RESTARTS)[role,].value += slot.restarts
        states["running",].value += int(role == "worker" and slot.pid != 0)
    for report in workers:
        states["ready",].value += int(report.is_ready and is_fresh(report))
        states["draining",].value += int(report.is_draining)
    return ledger.snapshot()
