"""Routes of the management socket that switch the faults of simulated tokens. Other tokens have none to switch.

====== ================================ =====================================================================
GET    /faults                          {"tokens": {name: [fault, ...]}} of all simulated tokens
GET    /tokens/{token}/faults           {"token", "faults": [fault, ...]}
POST   /tokens/{token}/faults           {"kind", "factor"?, "rate"?, "key"?, "duration_s"?} -> {"fault": fault}
DELETE /tokens/{token}/faults           clears all, or those of ?name=...&name=... -> {"cleared": [fault, ...]}
====== ================================ =====================================================================

A fault is {"name", "kind", "factor"?, "rate"?, "key"?, "since_s", "left_s"?}: for how long it has been on, and for how
long it still will be. Errors are {"error": "a sentence"} with a status of 400 or 404.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from hsm.backends.simulated.backend import SimulatedBackend
from hsm.backends.simulated.faults import ActiveFault, Fault
from hsm.node.opening.opened import OpenToken
from hsm.shared.exposition import json_response


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class FaultRoutes:
    """The routes; call it for the list."""

    def __init__(self, tokens: Callable[[], Sequence[OpenToken]]) -> None:
        """`tokens` says which are open now."""
        self._tokens = tokens

    def __call__(self) -> list[web.RouteDef]:
        """To be added to an application on a socket that only the node's user may open."""
        path = "/tokens/{token}/faults"
        return [
            web.get("/faults", self._list_all),
            web.get(path, self._list),
            web.post(path, self._set),
            web.delete(path, self._clear),
        ]

    async def _list_all(self, request: web.Request) -> web.Response:
        simulated = {
            token.name: _views(token.faults) for token in self._tokens() if isinstance(token.faults, SimulatedBackend)
        }
        if not simulated:
            return _error(404, "this node has no simulated token, so there are no faults to switch")
        return json_response({"tokens": simulated})

    async def _list(self, request: web.Request) -> web.Response:
        try:
            backend = self._backend(request)
        except _Refused as refused:
            return _error(refused.status, refused.sentence)
        return json_response({"token": request.match_info["token"], "faults": _views(backend)})

    async def _set(self, request: web.Request) -> web.Response:
        try:
            backend = self._backend(request)
            fault = msgspec.json.decode(await request.read(), type=Fault)
            active = backend.set_fault(fault)
        except _Refused as refused:
            return _error(refused.status, refused.sentence)
        except msgspec.DecodeError as error:
            return _error(400, f"the request body is no fault: {error}")
        except ValueError as error:
            return _error(400, str(error))
        return json_response({"fault": _view(active, backend.now())}, 201)

    async def _clear(self, request: web.Request) -> web.Response:
        try:
            backend = self._backend(request)
            names = request.query.getall("name", [])
            on = {active.fault.name for active in backend.faults}
            missing = [name for name in names if name not in on]
            if missing:
                raise _Refused(404, f"no fault {missing[0]!r} is on; on are: {', '.join(sorted(on)) or 'none'}")
        except _Refused as refused:
            return _error(refused.status, refused.sentence)
        cleared = backend.clear_faults(names or None)
        return json_response({"cleared": [_view(active, backend.now()) for active in cleared]})

    def _backend(self, request: web.Request) -> SimulatedBackend:
        name = request.match_info["token"]
        for token in self._tokens():
            if token.name == name:
                if isinstance(token.faults, SimulatedBackend):
                    return token.faults
                raise _Refused(
                    400, f"token {name!r} is a {token.kind} token; only simulated ones have faults to switch"
                )
        raise _Refused(404, f"this node has no token {name!r}")


def _views(backend: SimulatedBackend) -> list[dict[str, Any]]:
    now = backend.now()
    return [_view(active, now) for active in backend.faults]


def _view(active: ActiveFault, now: float) -> dict[str, Any]:
    fault: dict[str, Any] = msgspec.to_builtins(active.fault)
    fault.pop("duration_s", None)
    view = {"name": active.fault.name, **fault, "since_s": round(max(0.0, now - active.since), 3)}
    if active.until is not None:
        view["left_s"] = round(max(0.0, active.until - now), 3)
    return view


def _error(status: int, sentence: str) -> web.Response:
    return json_response({"error": sentence}, status)
