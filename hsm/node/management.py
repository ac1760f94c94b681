"""The management API: JSON over HTTP on a Unix socket that only the node's own user may open.

It makes, lists, certifies, imports, changes and destroys keys of all tokens of the node; no operation returns a private
key. `sealgate key` is its client. Keys are named by SKI or label; `?token=` says which token is meant.

====== ========================== ====================================================================================
GET    /status                    how the node is
GET    /keys                      {"keys": [...], "unavailable": [{"token", "error"}]}; of one token by `?token=`
POST   /keys                      {"type", "label", attributes} -> {"key": ...}
POST   /keys/import               {"pem", "label", "password"?, attributes} -> {"key": ...}
GET    /keys/{key}                {"key": ...}
PATCH  /keys/{key}                {"purpose"?, "schemes"?, "not_before"?, "not_after"?, "max_rate"?} -> {"key": ...}
POST   /keys/{key}/csr            {"subject"?, "names"} -> {"pem": ...}
POST   /keys/{key}/self-sign      {"subject"?, "names", "days"?} -> {"pem": ...}
POST   /keys/{key}/activate       {"key": ...}; takes back what was planned
POST   /keys/{key}/retire         {"key": ...}
POST   /keys/{key}/rotate         {"subject"?, "names", "quiet_s"?} -> {"key", "successor", "pem"}
POST   /keys/{key}/destroy        {"grace_s"?} -> {"key": ...}; 0 destroys at once
====== ========================== ====================================================================================

Attributes of a new key are "token", "purpose", "active", "schemes", "not_before", "not_after" and "max_rate"; all may
be left out, except "token" where the node has several. Errors are {"error": "a sentence"} with a status of 400, 404,
409, 413, 500 or 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec
from aiohttp import web

from hsm.backends import lifecycle
from hsm.backends.attributes import KeyAttributes, Usage
from hsm.backends.base import KeyAdmin, KeyRecord
from hsm.backends.lifecycle import AttributeChanges, Operation
from hsm.backends.rotation import rotate
from hsm.node.blocking import BlockingCalls
from hsm.node.key_forms import (
    CsrBody,
    DestroyBody,
    GenerateBody,
    ImportBody,
    KeyView,
    RotateBody,
    SelfSignBody,
    Unavailable,
)
from hsm.node.key_tokens import KeyTokens, OwnedToken, Refused
from hsm.node.observe import NodeObserver, NodeStatus
from hsm.node.opening.opened import OpenToken
from hsm.shared.exposition import json_response
from hsm.shared.logs import get_logger

T = TypeVar("T")

MAX_BODY_BYTES = 131_072
_NOTHING: Mapping[str, object] = {}
OPERATIONS = (
    *("list", "show", "generate", "import", "csr", "self-sign"),
    *("set", "activate", "retire", "rotate", "destroy"),
)


class Management:
    """The API's handlers."""

    def __init__(
        self,
        tokens: Sequence[OpenToken],
        observer: NodeObserver,
        status: Callable[[], NodeStatus],
        on_change: Callable[[str], Awaitable[None]],
        calls: BlockingCalls,
    ) -> None:
        """`on_change` is called in the loop, with the token's name, after each operation that may have changed keys.

        `tokens` may be empty until `tokens_opened`; what concerns keys is refused until then.
        """
        self._tokens = KeyTokens(tokens, observer, calls)
        self._status = status
        self._on_change = on_change
        self._log = get_logger("management")

    def tokens_opened(self, tokens: Sequence[OpenToken]) -> None:
        """From now on keys can be managed."""
        self._tokens.opened(tokens)

    def app(self, routes: Iterable[web.RouteDef] = ()) -> web.Application:
        """The application to be served on the socket; `routes` are what others serve there."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        key = "/keys/{key}"
        app.router.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/keys", self._list),
                web.post("/keys", self._generate),
                web.post("/keys/import", self._import),
                web.get(key, self._show),
                web.patch(key, self._set),
                web.post(f"{key}/csr", self._csr),
                web.post(f"{key}/self-sign", self._self_sign),
                web.post(f"{key}/activate", self._activate),
                web.post(f"{key}/retire", self._retire),
                web.post(f"{key}/rotate", self._rotate),
                web.post(f"{key}/destroy", self._destroy),
                *routes,
            ]
        )
        return app

    async def _get_status(self, request: web.Request) -> web.Response:
        return json_response(self._status())

    async def _list(self, request: web.Request) -> web.Response:
        name = request.query.get("token", "")
        tokens = (self._tokens.named(name),) if name else self._tokens.all()
        answers = await asyncio.gather(*(self._views_of(token) for token in tokens), return_exceptions=True)
        views: list[KeyView] = []
        unavailable: list[Unavailable] = []
        for token, answer in zip(tokens, answers, strict=True):
            if isinstance(answer, Refused) and len(tokens) > 1:
                unavailable.append(Unavailable(token=token.name, error=answer.sentence))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                views += answer
        return json_response({"keys": views, "unavailable": unavailable})

    async def _views_of(self, token: OwnedToken) -> list[KeyView]:
        def work(admin: KeyAdmin) -> list[KeyView]:
            usage = admin.usage()
            return [KeyView.of(token.name, record, usage.get(record.ski, Usage())) for record in admin.list()]

        return await self._tokens.run(token, "list", "", work)

    async def _show(self, request: web.Request) -> web.Response:
        return await self._answer(request, "show", lambda admin, key: admin.get(key))

    async def _generate(self, request: web.Request) -> web.Response:
        body = await _body(request, GenerateBody)
        token = self._tokens.for_new(body.token, body.label)

        def make(admin: KeyAdmin) -> KeyRecord:
            return admin.generate(body.type, body.label, body.attributes())

        record = await self._tokens.run(token, "generate", body.label, make, _told(body.attributes()))
        return await self._changed(KeyView.of(token.name, record, Usage()), 201)

    async def _import(self, request: web.Request) -> web.Response:
        body = await _body(request, ImportBody)
        token = self._tokens.for_new(body.token, body.label)
        pem = body.pem.encode()
        password = None if body.password is None else body.password.encode()

        def take_in(admin: KeyAdmin) -> KeyRecord:
            return admin.import_pem(pem, password, body.label, body.attributes())

        record = await self._tokens.run(token, "import", body.label, take_in, _told(body.attributes()))
        return await self._changed(KeyView.of(token.name, record, Usage()), 201)

    async def _csr(self, request: web.Request) -> web.Response:
        body = await _body(request, CsrBody)
        wanted = body.wanted()

        def certify(admin: KeyAdmin, record: KeyRecord) -> bytes:
            return admin.csr(record.ski.hex(), wanted.subject_for(record), wanted.names)

        return await self._certified(request, "csr", certify)

    async def _self_sign(self, request: web.Request) -> web.Response:
        body = await _body(request, SelfSignBody)
        wanted = body.wanted()

        def certify(admin: KeyAdmin, record: KeyRecord) -> bytes:
            return admin.self_sign(record.ski.hex(), wanted.subject_for(record), wanted.names, body.days)

        return await self._certified(request, "self-sign", certify)

    async def _certified(
        self, request: web.Request, operation: str, certify: Callable[[KeyAdmin, KeyRecord], bytes]
    ) -> web.Response:
        key = request.match_info["key"]
        token = await self._token_of(request)

        def work(admin: KeyAdmin) -> bytes:
            record = admin.get(key)
            lifecycle.check(Operation.CERTIFY, record, _now())
            return certify(admin, record)

        pem = await self._tokens.run(token, operation, key, work)
        return json_response({"pem": pem.decode("ascii")})

    async def _set(self, request: web.Request) -> web.Response:
        changes = await _body(request, AttributeChanges)
        return await self._change(
            request, "set", lambda record: lifecycle.changed(record, _now(), changes), _told(changes)
        )

    async def _activate(self, request: web.Request) -> web.Response:
        return await self._change(request, "activate", lambda record: lifecycle.activated(record, _now()))

    async def _retire(self, request: web.Request) -> web.Response:
        return await self._change(request, "retire", lambda record: lifecycle.retired(record, _now()))

    async def _destroy(self, request: web.Request) -> web.Response:
        body = await _body(request, DestroyBody)
        if body.grace_s == 0:
            return await self._answer(request, "destroy", lambda admin, key: admin.destroy(key), _told(body))
        grace = timedelta(seconds=body.grace_s)
        return await self._change(
            request, "destroy", lambda record: lifecycle.scheduled(record, _now(), grace), _told(body)
        )

    async def _rotate(self, request: web.Request) -> web.Response:
        body = await _body(request, RotateBody)
        key, token = request.match_info["key"], await self._token_of(request)
        taken = {label for other in self._tokens.all() for label in other.labels()}
        done = await self._tokens.run(
            token,
            "rotate",
            key,
            lambda admin: rotate(admin, key, _now(), body.wanted(), quiet_s=body.quiet_s, taken=taken),
        )
        await self._take_up(token.name, done.successor.label)
        old, successor = (KeyView.of(token.name, record, Usage()) for record in (done.old, done.successor))
        return json_response({"key": old, "successor": successor, "pem": done.csr.decode("ascii")}, 201)

    async def _change(
        self,
        request: web.Request,
        operation: str,
        make: Callable[[KeyRecord], KeyAttributes],
        told: Mapping[str, object] = _NOTHING,
    ) -> web.Response:
        return await self._answer(request, operation, lambda admin, key: admin.change(key, make), told)

    async def _answer(
        self,
        request: web.Request,
        operation: str,
        work: Callable[[KeyAdmin, str], KeyRecord],
        told: Mapping[str, object] = _NOTHING,
    ) -> web.Response:
        """Runs an operation on the key that the request names, and answers with the key as it is then."""
        key = request.match_info["key"]
        token = await self._token_of(request)

        def view(admin: KeyAdmin) -> KeyView:
            usage = admin.usage()  # before: a destroyed key has none
            record = work(admin, key)
            return KeyView.of(token.name, record, usage.get(record.ski, Usage()))

        found = await self._tokens.run(token, operation, key, view, told)
        return await self._changed(found, 200) if operation != "show" else json_response({"key": found})

    async def _token_of(self, request: web.Request) -> OwnedToken:
        return await self._tokens.holding(request.match_info["key"], request.query.get("token", ""))

    async def _changed(self, view: KeyView, status: int) -> web.Response:
        await self._take_up(view.token, view.label)
        return json_response({"key": view}, status)

    async def _take_up(self, token: str, label: str) -> None:
        # Durable and usable here before it is acknowledged; other nodes follow within their refresh interval.
        try:
            await self._on_change(token)
        except Exception as error:
            self._log.error("change_not_taken_up", key=label, error=type(error).__name__)
            sentence = f"the change of {label!r} is stored, but this node can't read token {token!r} now; see its log"
            raise Refused(503, sentence) from None


def _told(said: msgspec.Struct) -> Mapping[str, object]:
    """What an operation was told, for the log."""
    fields: Mapping[str, object] = msgspec.to_builtins(said)
    return fields


def _now() -> datetime:
    return datetime.now(UTC)


async def _body(request: web.Request, type_: type[T]) -> T:
    """The request's JSON as a value of `type_`; nothing sent is {}."""
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=type_)
    except msgspec.DecodeError as error:
        # ValidationError is one of these; its message names the field and not the value.
        raise Refused(400, f"the request body is wrong: {error}") from None
    except UnicodeDecodeError:
        raise Refused(400, "the request body is wrong: it is not UTF-8") from None


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refused as refused:
        return json_response({"error": refused.sentence}, refused.status)
    except web.HTTPException as error:
        return json_response({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
    except Exception as error:
        # Nobody knows what its message holds.
        get_logger("management").error("request_crashed", path=request.path, error=type(error).__name__)
        return json_response({"error": "the request failed inside the node; its log says more"}, 500)
