"""The control process: /metrics, /healthz, /readyz and /status of the whole fleet, from what is on the board.

It serves no client traffic and holds no key, so a slow scrape or a crash here touches nobody's handshake. Its TCP
address only tells; what changes something goes through a Unix socket (`node_admin.py`).
"""

from __future__ import annotations

import asyncio
import platform
import signal
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop
from aiohttp import web

from hsm.shared.exposition import Health, ListenError, Running, json_response, ops_app, serve
from hsm.shared.hardening import harden_process
from hsm.shared.logs import configure, get_logger
from proxy import __version__
from proxy.base.policy import NodeAdmin
from proxy.run import metrics
from proxy.run.board import Board, MasterReport, WorkerReport, is_fresh
from proxy.run.cells import Ledger, Snapshot, merge
from proxy.run.fleet_view import FleetView, Known
from proxy.run.node_admin import NodeAdminApi
from proxy.run.place import Place
from proxy.run.scrape import exposition

if TYPE_CHECKING:
    from proxy.tls.certificates import SiteCertificate  # imports cryptography, which must wait for the provider

STOP_TIMEOUT_S = 2.0
SOCKET_NAME = "control.sock"
_NOTHING_KNOWN = Known()
_NO_WISHES: Mapping[str, NodeAdmin] = {}


def run_control(place: Place) -> int:
    """Serve until SIGTERM, or until the master is gone. Returns the exit status."""
    configure("sealgate-control", fmt=place.config.process.log_format, level=place.config.process.log_level)
    harden_process()
    uvloop.run(_serve(place))
    return 0


async def _serve(place: Place) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(place.life_fd, _on_master_gone, place, stop)
    known = known_from(place)
    control = Control(place.board, known)
    runner = web.AppRunner(control_app(control), access_log=None, handle_signals=False, shutdown_timeout=STOP_TIMEOUT_S)
    await runner.setup()
    assert place.control is not None
    await web.SockSite(runner, place.control.dup()).start()
    admin = await _serve_admin(place, known)
    control.socket = admin.address if admin else ""
    await stop.wait()
    if admin is not None:
        await admin.stop()
    await runner.cleanup()


async def _serve_admin(place: Place, known: Known) -> Running | None:
    """The Unix socket. Without it the proxy works and tells as before, but can't be told anything."""
    path = Path(place.config.control.socket or place.board.folder / SOCKET_NAME)
    try:
        return await serve(NodeAdminApi(place.board, known).app(), path)
    except ListenError as error:
        hint = "name another path: [control] socket"
        get_logger("run").error("no_control_socket", error=str(error), hint=hint)
        return None


def known_from(place: Place) -> Known:
    """What the config and the certificates say of keys and nodes."""
    return Known(
        keys=names_of_keys(place.contexts.certificates),
        configured={node.name: node.state for node in place.config.nodes},
    )


def names_of_keys(certificates: Iterable[SiteCertificate]) -> dict[str, str]:
    """Each key (SKI in hex) and whose it is: a site, or the first of several."""
    sites: dict[str, dict[str, None]] = {}
    for certificate in certificates:
        sites.setdefault(certificate.ski.hex(), {})[certificate.site] = None
    return {
        ski: first if not others else f"{first} (and {len(others)} more site{'s' if len(others) > 1 else ''})"
        for ski, (first, *others) in sites.items()
    }


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

    def __init__(self, board: Board, known: Known = _NOTHING_KNOWN) -> None:
        self._board, self._known = board, known
        self.socket = ""
        """Where the proxy can be told something; "" where it can't."""

    def metrics(self) -> bytes:
        """All metrics, summed over the workers that are and were."""
        workers, past = self._board.living_and_past()
        living = [report.snapshot for report in workers]
        if (master := self._board.master()) is not None:
            living.append(fleet_numbers(master, workers, self._known, self._board.wishes().states))
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
        wishes = self._board.wishes().states
        shown = status(self._board.master(), self._board.workers(), self._known, wishes)
        return json_response({**shown, "control_socket": self.socket})


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


def status(
    master: MasterReport | None,
    workers: Sequence[WorkerReport],
    known: Known = _NOTHING_KNOWN,
    wishes: Mapping[str, NodeAdmin] = _NO_WISHES,
) -> dict[str, Any]:
    """The whole fleet as one JSON object."""
    reasons = unready_reasons(master, workers)
    view = FleetView(workers, known, wishes)
    return {
        "version": __version__,
        "master": master,
        "ready": not reasons,
        "reasons": reasons,
        "workers": [_worker_status(report) for report in workers],
        "nodes": view.nodes(),
        "headroom": view.headroom_shown(),
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


def _sessions(workers: Sequence[WorkerReport]) -> dict[str, int]:
    return {"active": _total(workers, metrics.SESSIONS_ACTIVE.name), "total": _total(workers, metrics.SESSIONS.name)}


def _total(workers: Sequence[WorkerReport], name: str) -> int:
    return int(sum(value for report in workers for _, value in report.snapshot.numbers.get(name, ())))


def fleet_numbers(
    master: MasterReport,
    workers: Sequence[WorkerReport],
    known: Known = _NOTHING_KNOWN,
    wishes: Mapping[str, NodeAdmin] = _NO_WISHES,
) -> Snapshot:
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
    FleetView(workers, known, wishes).count(ledger)
    return ledger.snapshot()
