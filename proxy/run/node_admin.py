"""Nodes are drained, disabled and enabled at run time: JSON over a Unix socket that only the proxy's own user may open.

====== ========================= ====================================================================================
GET    /nodes                    {"nodes": [...]}, as in `/status`
POST   /nodes/{name}/state       {"state", "force"?, "wait_s"?} -> {"node", "state", "before", "in_flight", "told",
                                 "not_told"}
====== ========================= ====================================================================================

The wish is written on the board, where each worker finds it within a quarter of a second; the answer is given when they
have, and, within `wait_s`, nothing is under way at the node any more. Errors are {"error": "a sentence"} with a status
of 400, 404, 409 or 500.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from hsm.shared.exposition import json_response
from hsm.shared.logs import get_logger
from proxy.base.policy import NodeAdmin
from proxy.run.board import Board, Wishes, WorkerReport
from proxy.run.fleet_view import FleetView, Known
from proxy.run.wishes import ENABLED

TOLD_WITHIN_S = 2.0
"""How long an answer waits for workers to act on a wish; one that is busier than this is named in the answer."""
LOOK_S = 0.02
MAX_WAIT_S = 60.0
MAX_WISHES = 1024
MAX_BODY_BYTES = 4096
SHOWN_NAMES = 10


class Refused(Exception):
    """A wish that is not fulfilled, and why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class StateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a node."""

    state: NodeAdmin
    force: bool = False
    """Also where the node is the last one for some key."""
    wait_s: Annotated[float, Meta(ge=0, le=MAX_WAIT_S)] = 0.0
    """How long to wait until nothing is under way there."""


class NodeAdminApi:
    """The handlers. There is one control process, and it alone writes wishes."""

    def __init__(self, board: Board, known: Known) -> None:
        self._board, self._known = board, known

    def app(self) -> web.Application:
        """The HTTP application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.router.add_get("/nodes", self._list)
        app.router.add_post("/nodes/{name}/state", self._set_state)
        return app

    async def _list(self, _request: web.Request) -> web.Response:
        return json_response({"nodes": self._view().nodes()})

    async def _set_state(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            body = msgspec.json.decode(await request.read(), type=StateBody)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, f"the request body is wrong: {error}") from None
        view = self._view()
        before = self._known.admin_of(name, self._board.wishes().states)
        sentence = refusal(view, self._known, name, body.state, is_forced=body.force)
        if sentence:
            raise Refused(404 if not _is_known(view, name) else 409, sentence)
        self._write(name, body.state, view)
        get_logger("run").info("node_state_asked", node=name, state=body.state, before=before, forced=body.force)
        told, not_told = await self._until_told(name, body.state, time.monotonic())
        in_flight = await self._until_idle(name, body.state, 0.0 if body.state == ENABLED else body.wait_s)
        answer = {"node": name, "state": body.state, "before": before, "in_flight": in_flight}
        return json_response({**answer, "told": told, "not_told": not_told})

    def _view(self) -> FleetView:
        return FleetView(self._board.workers(), self._known, self._board.wishes().states)

    def _write(self, name: str, state: NodeAdmin, view: FleetView) -> None:
        states = {**self._board.wishes().states, name: state}
        try:
            self._board.publish_wishes(Wishes(states=bounded(states, {node["name"] for node in view.nodes()})))
        except OSError as error:
            raise Refused(500, f"the wish could not be written: {error.strerror or error}") from None

    async def _until_told(self, name: str, state: NodeAdmin, asked_at: float) -> tuple[list[str], list[str]]:
        """Slots of the workers that have acted on the wish, and of those that have not.

        Raises Refused where another command was given meanwhile, because then nobody may ever act on this one.
        """
        while True:
            self._require_still(name, state)
            told = {
                report.slot: any(node.name == name and node.admin == state for node in report.nodes)
                for report in self._board.workers()
                if _sees(report, name)
            }
            if all(told.values()) or time.monotonic() - asked_at > TOLD_WITHIN_S:
                slow = [slot for slot, is_told in told.items() if not is_told]
                return [slot for slot in told if slot not in slow], slow
            await asyncio.sleep(LOOK_S)

    def _require_still(self, name: str, state: NodeAdmin) -> None:
        wanted = self._board.wishes().states.get(name, state)
        if wanted != state:
            raise Refused(409, f"{name} is to be {wanted} now: another command came after this one")

    async def _until_idle(self, name: str, state: NodeAdmin, wait_s: float) -> int:
        deadline = time.monotonic() + wait_s
        while True:
            self._require_still(name, state)
            left = self._in_flight(name)
            if not left or time.monotonic() >= deadline:
                return left
            await asyncio.sleep(LOOK_S)

    def _in_flight(self, name: str) -> int:
        return sum(node.in_flight for report in self._board.workers() for node in report.nodes if node.name == name)


def refusal(view: FleetView, known: Known, name: str, state: NodeAdmin, *, is_forced: bool) -> str:
    """Why a node may not get a state, as a sentence; "" where it may. Pure."""
    nodes = {node["name"]: node for node in view.nodes()}
    if name not in nodes:
        shown = ", ".join(list(nodes)[:SHOWN_NAMES]) + (", ..." if len(nodes) > SHOWN_NAMES else "")
        return f"there is no node {name!r}; the nodes are {shown}" if nodes else f"there is no node {name!r}, nor any"
    if state == ENABLED or is_forced or nodes[name]["admin"] != ENABLED:
        return ""
    # Where the node signs, another one must; where it does not, another one must be meant to.
    others = {
        each["name"]
        for each in nodes.values()
        if each["admin"] == ENABLED and (each["in_rotation"] or not nodes[name]["in_rotation"])
    } - {name}
    silenced = [ski for ski, held in view.holders.items() if name in held and others.isdisjoint(held)]
    if silenced:
        more = f" and {len(silenced) - 1} more keys" if len(silenced) > 1 else ""
        whose = known.keys.get(silenced[0], silenced[0])
        return (
            f"no other node in rotation holds the key of {whose}{more}: without {name} nobody signs for it; "
            "--force does it all the same"
        )
    return "" if others else f"{name} is the last enabled node: without it nobody signs; --force does it all the same"


def bounded(states: Mapping[str, NodeAdmin], present: set[str]) -> dict[str, NodeAdmin]:
    """The wishes to keep: those about nodes that left are dropped, the oldest first, where there are too many."""
    kept = dict(states)
    for name in [name for name in kept if name not in present][: max(0, len(kept) - MAX_WISHES)]:
        del kept[name]
    return kept


def _is_known(view: FleetView, name: str) -> bool:
    return any(node["name"] == name for node in view.nodes())


def _sees(report: WorkerReport, name: str) -> bool:
    return any(node.name == name for node in report.nodes)


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return json_response({"error": str(refused)}, refused.status)
    except web.HTTPException as error:
        return json_response({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
    except Exception:
        get_logger("run").exception("admin_request_crashed", path=request.path)
        return json_response({"error": "the request failed inside the proxy; its log says more"}, 500)
