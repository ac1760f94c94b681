"""The management API: JSON over HTTP on a Unix socket that only the node's own user may open.

It makes, lists, certifies, imports and destroys keys; no operation returns a private key. Operations block in the
backend, so they run in a thread, one at a time, and few may wait. `sealgate key` is its client.

====== ========================== =====================================
GET    /status                    how the node is
GET    /keys                      {"keys": [...]}
POST   /keys                      {"type", "label"} -> {"key": ...}
POST   /keys/import               {"pem", "label", "password"?} -> {"key": ...}
GET    /keys/{key}                {"key": ...}; keys are named by SKI or label
POST   /keys/{key}/csr            {"subject"?, "names"} -> {"pem": ...}
POST   /keys/{key}/self-sign      {"subject"?, "names", "days"?} -> {"pem": ...}
DELETE /keys/{key}                {"key": ...}
====== ========================== =====================================

Errors are {"error": "a sentence"} with a status of 400, 404, 409, 413, 500 or 503.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Protocol, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from hsm.node.blocking import BlockingCalls
from hsm.node.observe import NodeObserver, NodeStatus
from hsm.node.refusals import Refusal
from hsm.shared.exposition import json_response
from hsm.shared.logs import get_logger
from hsm.wire.schemes import KeyType

T = TypeVar("T")

MAX_BODY_BYTES = 131_072
MAX_WAITING = 16
MAX_COMMON_NAME = 64
"""RFC 5280 A.1: ub-common-name."""
OPERATIONS = ("list", "show", "generate", "import", "csr", "self-sign", "destroy")

Label = Annotated[str, Meta(min_length=1, max_length=128)]
Names = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=253)], ...], Meta(max_length=100)]


class KeyRecord(Protocol):
    """What an admin says of a key."""

    @property
    def ski(self) -> bytes: ...
    @property
    def type(self) -> KeyType: ...
    @property
    def label(self) -> str: ...
    @property
    def created(self) -> datetime: ...
    @property
    def imported(self) -> bool: ...
    @property
    def public_key(self) -> str: ...


class KeyAdmin(Protocol):
    """What a backend lets its owner do. Blocks; the factory says how to read what it raises."""

    def generate(self, type: KeyType, label: str) -> KeyRecord: ...
    def import_pem(self, pem: bytes, password: bytes | None, label: str) -> KeyRecord: ...
    def get(self, reference: str) -> KeyRecord: ...
    def csr(self, reference: str, subject: str, names: Sequence[str]) -> bytes: ...
    def self_sign(self, reference: str, subject: str, names: Sequence[str], days: int = 90) -> bytes: ...
    def destroy(self, reference: str) -> KeyRecord: ...
    def list(self) -> Sequence[KeyRecord]: ...


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies."""


class GenerateBody(_Body, frozen=True, kw_only=True):
    """POST /keys."""

    type: KeyType
    label: Label


class ImportBody(_Body, frozen=True, kw_only=True):
    """POST /keys/import. Its repr must never be logged."""

    pem: Annotated[str, Meta(min_length=1)]
    label: Label
    password: str | None = None

    def __repr__(self) -> str:
        return "ImportBody([secret])"


class CsrBody(_Body, frozen=True, kw_only=True):
    """POST /keys/{key}/csr."""

    names: Names = ()
    subject: Annotated[str, Meta(max_length=1024)] = ""


class SelfSignBody(CsrBody, frozen=True, kw_only=True):
    """POST /keys/{key}/self-sign."""

    days: Annotated[int, Meta(ge=1, le=397)] = 90
    """Browsers refuse certificates that are valid for longer."""


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key as people and programs see it."""

    ski: str
    type: str
    label: str
    created: str
    imported: bool
    public_key: str

    @classmethod
    def of(cls, record: KeyRecord) -> KeyView:
        """The JSON form of a record."""
        return cls(
            ski=record.ski.hex(),
            type=record.type.value,
            label=record.label,
            created=record.created.isoformat(),
            imported=record.imported,
            public_key=record.public_key,
        )


class _Refused(Exception):
    """An answer of `status` with a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


class Management:
    """The API's handlers. `on_change` is called in the loop after each operation that may have changed the keys."""

    def __init__(
        self,
        admin: KeyAdmin,
        refusal_of: Callable[[Exception], Refusal | None],
        observer: NodeObserver,
        status: Callable[[], NodeStatus],
        on_change: Callable[[], Awaitable[None]],
        calls: BlockingCalls,
    ) -> None:
        self._admin = admin
        self._refusal_of = refusal_of
        self._observer = observer
        self._status = status
        self._on_change = on_change
        self._calls = calls
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._log = get_logger("management")

    def app(self) -> web.Application:
        """The application to be served on the socket."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_as_json])
        app.router.add_get("/status", self._get_status)
        app.router.add_get("/keys", self._list)
        app.router.add_post("/keys", self._generate)
        app.router.add_post("/keys/import", self._import)
        app.router.add_get("/keys/{key}", self._show)
        app.router.add_post("/keys/{key}/csr", self._csr)
        app.router.add_post("/keys/{key}/self-sign", self._self_sign)
        app.router.add_delete("/keys/{key}", self._destroy)
        return app

    async def _get_status(self, request: web.Request) -> web.Response:
        return json_response(self._status())

    async def _list(self, request: web.Request) -> web.Response:
        records = await self._do("list", "", self._admin.list)
        return json_response({"keys": [KeyView.of(record) for record in records]})

    async def _show(self, request: web.Request) -> web.Response:
        name = request.match_info["key"]
        record = await self._do("show", name, lambda: self._admin.get(name))
        return json_response({"key": KeyView.of(record)})

    async def _generate(self, request: web.Request) -> web.Response:
        body = await _body(request, GenerateBody)
        record = await self._do("generate", body.label, lambda: self._admin.generate(body.type, body.label))
        return await self._changed(record, 201)

    async def _import(self, request: web.Request) -> web.Response:
        body = await _body(request, ImportBody)
        pem = body.pem.encode()
        password = None if body.password is None else body.password.encode()
        record = await self._do("import", body.label, lambda: self._admin.import_pem(pem, password, body.label))
        return await self._changed(record, 201)

    async def _destroy(self, request: web.Request) -> web.Response:
        name = request.match_info["key"]
        record = await self._do("destroy", name, lambda: self._admin.destroy(name))
        return await self._changed(record, 200)

    async def _csr(self, request: web.Request) -> web.Response:
        name, body = request.match_info["key"], await _body(request, CsrBody)
        subject = _subject(body)
        pem = await self._do("csr", name, lambda: self._admin.csr(name, subject, body.names))
        return json_response({"pem": pem.decode("ascii")})

    async def _self_sign(self, request: web.Request) -> web.Response:
        name, body = request.match_info["key"], await _body(request, SelfSignBody)
        subject = _subject(body)
        pem = await self._do("self-sign", name, lambda: self._admin.self_sign(name, subject, body.names, body.days))
        return json_response({"pem": pem.decode("ascii")})

    async def _changed(self, record: KeyRecord, status: int) -> web.Response:
        # Durable and usable here before it is acknowledged; other nodes follow within their refresh interval.
        try:
            await self._on_change()
        except Exception as error:
            self._log.error("change_not_taken_up", key=record.label, error=type(error).__name__)
            sentence = f"the change of {record.label!r} is stored, but this node can't read its store now; see its log"
            raise _Refused(503, sentence) from None
        return json_response({"key": KeyView.of(record)}, status)

    async def _do(self, operation: str, key: str, work: Callable[[], T]) -> T:
        """Runs one operation of the admin in a thread, in turn, and reports how it went."""
        if self._waiting >= MAX_WAITING:
            raise _Refused(503, "too many management operations wait already; try again later")
        self._waiting += 1
        try:
            async with self._turn:
                result = await self._calls.run(work)
        except Exception as error:
            raise self._failure(operation, key, error) from None
        finally:
            self._waiting -= 1
        self._observer.management_done(operation, is_ok=True)
        if operation not in ("list", "show"):
            self._log.info("management_done", operation=operation, key=key)
        return result

    def _failure(self, operation: str, key: str, error: Exception) -> _Refused:
        self._observer.management_done(operation, is_ok=False)
        refusal = self._refusal_of(error)
        if refusal is not None:
            self._log.warning("management_refused", operation=operation, key=key, error=refusal.sentence)
            return _Refused(refusal.reason.value, refusal.sentence)
        # Nobody knows what a foreign exception's message holds: log its type only.
        self._log.error("management_crashed", operation=operation, key=key, error=type(error).__name__)
        return _Refused(500, "the operation failed inside the node; its log says more")


def _subject(body: CsrBody) -> str:
    """What is certified is the names; the subject repeats the first one that fits, unless told otherwise."""
    if not body.names:
        raise _Refused(400, "give at least one name: clients look at the names, not at the subject")
    if body.subject:
        return body.subject
    fitting = next((name for name in body.names if len(name) <= MAX_COMMON_NAME), None)
    if fitting is None:
        raise _Refused(400, f"no name has at most {MAX_COMMON_NAME} characters, as the subject needs; give a subject")
    return f"CN={fitting}"


async def _body(request: web.Request, type_: type[T]) -> T:
    """The request's JSON as a value of `type_`."""
    raw = await request.read()
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.DecodeError as error:
        # ValidationError is one of these; its message names the field and not the value.
        raise _Refused(400, f"the request body is wrong: {error}") from None


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except _Refused as refused:
        return json_response({"error": refused.sentence}, refused.status)
    except web.HTTPException as error:
        return json_response({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
    except Exception as error:
        # Nobody knows what its message holds.
        get_logger("management").error("request_crashed", path=request.path, error=type(error).__name__)
        return json_response({"error": "the request failed inside the node; its log says more"}, 500)
