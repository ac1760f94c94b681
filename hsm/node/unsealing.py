"""Vaults that wait for their shares: takes shares over the management socket until each vault is open.

====== ======== =========================================================
GET    /unseal  {"sealed": [{"token", "set", "needed", "of", "have", ...}]}
POST   /unseal  {"share"} -> {"sentence", "index", "set", "missing", "opened"}
DELETE /unseal  forgets the shares that were given so far
====== ======== =========================================================

While a vault waits, the node's start waits with it; this answers on the management socket in the place of the
management of keys. Shares are never logged, never part of an answer, and forgotten when nobody goes on for 15
minutes, when the vault does not open, and as soon as it does. What opens a vault is given by whoever opens tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from msgspec import Meta

from hsm.node.notify import notify
from hsm.node.observe import NodeStatus
from hsm.node.opening.opened import TokenProblem
from hsm.node.peers import who_is
from hsm.shared.exposition import json_response
from hsm.shared.logs import get_logger
from hsm.store import master_key, share_text
from hsm.store.collection import DEFAULT_TIMEOUT_S, Collection, Taken
from hsm.store.master_key import SharedSecret
from hsm.store.share_text import MAX_TEXT_CHARACTERS, ShareFault, Wrong
from hsm.store.shares import Share, ShareSet

T = TypeVar("T")

TICK_S = 1.0
OPEN_TIMEOUT_S = 60.0
"""Whoever gives the last share hears within this time whether the vault opened."""
MAX_BODY_BYTES = 16_384
SEALED_HINT = "this node is sealed: give the shares of its vault with `sealgate node unseal`"
NOTHING_SEALED = "nothing is sealed here: no vault of this node waits for shares"
STARTING_HINT = "no vault waits for shares now, but the node is still starting; try again in a moment"
_EXTEND_START = f"EXTEND_TIMEOUT_USEC={30_000_000}\nSTATUS=Sealed: waiting for shares"
"""sd_notify(3): a node that waits for people must not be taken for one that hangs."""


class ShareBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /unseal."""

    share: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARACTERS)]

    def __repr__(self) -> str:
        return "ShareBody([secret])"


@dataclass(frozen=True, slots=True)
class SealedView:
    """One vault that waits, as people and programs see it."""

    token: str
    set: str
    needed: int
    of: int
    have: tuple[int, ...]
    """Which shares were given."""
    forgotten_in_s: float | None
    """When these are forgotten, unless another one comes."""


class _Sealed:
    """One vault that waits. `try_now` is set when its shares are complete; `tried` then says how it went."""

    def __init__(self, token: str, share_set: ShareSet, timeout_s: float) -> None:
        self.token = token
        self.collection = Collection(share_set, timeout_s)
        self.try_now = asyncio.Event()
        self.is_trying = False
        self.tried: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """ "" when the vault opened, or a sentence."""

    def tell(self, sentence: str) -> None:
        """How the attempt went, to whoever waits for it."""
        self.is_trying = False
        self.tried.set_result(sentence)
        self.tried = asyncio.get_running_loop().create_future()


class Unsealing:
    """The vaults of one node that wait for shares. Used in its event loop."""

    def __init__(
        self,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        tick_s: float = TICK_S,
        clock: Callable[[], float] = time.monotonic,
        tell_systemd: Callable[[str], object] = notify,
    ) -> None:
        self._timeout_s = timeout_s
        self._tick_s = tick_s
        self._clock = clock
        self._tell_systemd = tell_systemd
        self._waiting: list[_Sealed] = []
        self.is_starting = False
        """Whether more vaults may come to wait."""
        self._log = get_logger("unsealing")

    @property
    def sealed(self) -> tuple[str, ...]:
        """The tokens that wait."""
        return tuple(sealed.token for sealed in self._waiting)

    async def open(self, token: str, share_set: ShareSet, attempt: Callable[[SharedSecret], Awaitable[T]]) -> T:
        """Wait until enough shares came, and return what `attempt` made of them.

        Where `attempt` raises TokenProblem, whoever gave the last share is told and the wait begins anew.
        """
        with self._registered(token, share_set) as sealed:
            self._log.warning(
                "vault_sealed",
                token=token,
                set=share_set.name,
                needed=share_set.threshold,
                of=share_set.count,
                hint="it opens when enough people ran `sealgate node unseal`",
            )
            while True:
                await self._enough(sealed)
                secret = SharedSecret(sealed.collection.secret(), share_set)
                try:
                    opened = await attempt(secret)
                except TokenProblem as problem:
                    self._log.error("vault_not_opened", token=token, error=str(problem))
                    sealed.tell(f"{problem}; the shares were forgotten")
                else:
                    self._log.info("vault_unsealed", token=token, set=share_set.name)
                    self._waiting.remove(sealed)
                    self._tell_systemd("STATUS=Unsealed")
                    sealed.tell("")
                    return opened
                finally:
                    master_key.forget(secret)

    @contextlib.contextmanager
    def _registered(self, token: str, share_set: ShareSet) -> Iterator[_Sealed]:
        sealed = _Sealed(token, share_set, self._timeout_s)
        self._waiting.append(sealed)
        try:
            yield sealed
        finally:
            sealed.collection.forget()
            sealed.tell("the node gave its start up meanwhile; see its log")
            if sealed in self._waiting:
                self._waiting.remove(sealed)

    async def _enough(self, sealed: _Sealed) -> None:
        """Until the shares are complete; forgets them when nobody goes on."""
        while True:
            self._tell_systemd(_EXTEND_START)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(sealed.try_now.wait(), self._tick_s)
            if sealed.try_now.is_set():
                sealed.try_now.clear()
                return
            if sealed.collection.expire(self._clock()):
                self._log.warning("shares_forgotten", token=sealed.token, after_s=self._timeout_s)

    def state(self) -> list[SealedView]:
        """Every vault that waits."""
        now = self._clock()
        return [_view(sealed, now) for sealed in self._waiting]

    def app(self, status: Callable[[], NodeStatus]) -> web.Application:
        """What the management socket serves while the tokens of a node are opened, some of them by shares."""

        async def get_status(_request: web.Request) -> web.Response:
            return json_response(status())

        async def refuse(_request: web.Request) -> web.Response:
            return json_response({"error": SEALED_HINT}, 503)

        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/status", get_status)
        app.router.add_routes(self.routes())
        app.router.add_route("*", "/{rest:.*}", refuse)
        return app

    def routes(self) -> list[web.RouteDef]:
        """The three routes; they answer also when nothing waits any more."""
        return [
            web.get("/unseal", self._get),
            web.post("/unseal", self._post),
            web.delete("/unseal", self._delete),
        ]

    async def _get(self, _request: web.Request) -> web.Response:
        return json_response({"sealed": self.state()})

    async def _delete(self, request: web.Request) -> web.Response:
        for sealed in self._waiting:
            if not sealed.is_trying:
                sealed.collection.forget()
        self._log.warning("shares_forgotten", token="all", hint="somebody asked for it", **who_is(request.transport))
        return json_response({"sealed": self.state()})

    async def _post(self, request: web.Request) -> web.Response:
        try:
            body = msgspec.json.decode(await request.read(), type=ShareBody)
        except (msgspec.DecodeError, UnicodeDecodeError, web.HTTPRequestEntityTooLarge):
            return json_response({"error": "the request body is wrong: it must be one share as text"}, 400)
        if not self._waiting:
            return json_response({"error": STARTING_HINT if self.is_starting else NOTHING_SEALED}, 409)
        share = share_text.decode(body.share)
        by = who_is(request.transport)
        if isinstance(share, Wrong):
            return self._refused(share, by)
        mine = [sealed for sealed in self._waiting if sealed.collection.share_set.set_id == share.set_id]
        if not mine:
            return self._refused(self._of_another_set(share), by)
        answers = [await self._give(sealed, share, by) for sealed in mine]
        return answers[0]

    async def _give(self, sealed: _Sealed, share: Share, by: Mapping[str, int]) -> web.Response:
        if sealed.is_trying:
            return json_response({"error": f"the vault {sealed.token!r} is being opened; wait a moment"}, 409)
        taken = sealed.collection.take(share, self._clock())
        if isinstance(taken, Wrong):
            return self._refused(taken, by, sealed.token)
        told = {"set": taken.set_name, "share": taken.index, "missing": taken.missing}
        self._log.info("share_accepted", token=sealed.token, **told, **by)
        if taken.missing:
            return _accepted(taken, taken.sentence, is_open=False)
        tried, sealed.is_trying = sealed.tried, True
        sealed.try_now.set()
        try:
            problem = await asyncio.wait_for(asyncio.shield(tried), OPEN_TIMEOUT_S)
        except TimeoutError:
            problem = f"the vault {sealed.token!r} did not open within {OPEN_TIMEOUT_S:.0f} s; see the node's log"
        if problem:
            return json_response({"error": f"{taken.sentence}, but {problem}"}, 503)
        return _accepted(taken, f"{taken.sentence}: the vault {sealed.token!r} is open", is_open=True)

    def _of_another_set(self, share: Share) -> Wrong:
        sets = ", ".join(sealed.collection.share_set.name for sealed in self._waiting)
        sentence = (
            f"share {share.index} of set {share.set_id.hex()} belongs to another vault, or to shares that were"
            f" replaced: this node waits for set {sets}"
        )
        return Wrong(ShareFault.OTHER_SET, sentence)

    def _refused(self, wrong: Wrong, by: Mapping[str, int], token: str = "") -> web.Response:
        # The sentence holds numbers of the share and of its groups, nothing that was typed.
        self._log.warning("share_refused", token=token, fault=wrong.fault.value, error=wrong.sentence, **by)
        status = 409 if wrong.fault is ShareFault.GIVEN_ALREADY else 400
        return json_response({"error": wrong.sentence, "fault": wrong.fault.value}, status)


def _accepted(taken: Taken, sentence: str, *, is_open: bool) -> web.Response:
    return json_response(
        {
            "sentence": sentence,
            "index": taken.index,
            "set": taken.set_name,
            "missing": taken.missing,
            "opened": is_open,
        }
    )


def _view(sealed: _Sealed, now: float) -> SealedView:
    mine, share_set = sealed.collection, sealed.collection.share_set
    left = mine.seconds_left(now)
    return SealedView(
        token=sealed.token,
        set=share_set.name,
        needed=share_set.threshold,
        of=share_set.count,
        have=mine.indices,
        forgotten_in_s=None if left is None else round(left, 1),
    )
