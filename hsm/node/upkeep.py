"""What a node does for its tokens by the clock: tells them how much was signed, and has done what is due with keys.

Each token on its own and in a thread, never on the way of a signature. What fails is logged once and tried again the
next time; counts that could not be written are kept until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from hsm.backends.attributes import Usage
from hsm.backends.base import KeyAdmin
from hsm.backends.lifecycle import may_be_due, run_due
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import OpenToken
from hsm.node.usage import UsageCounts
from hsm.shared.logs import get_logger

MAX_GAP_S = 60.0
"""A node that did not look for so long was stopped, or its host was: nobody could have used its keys meanwhile."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class _Telling:
    """One piece of news for a token, told in a thread, and how that went."""

    def __init__(self, admin: KeyAdmin, node: str, taken: Mapping[bytes, Usage]) -> None:
        self.taken = taken
        self.error: Exception | None = None
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._admin = admin
        self._node = node

    def tell(self) -> None:
        """Blocks; never raises."""
        try:
            self._admin.add_usage(self._node, self.taken)
        except Exception as error:
            self.error = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(self.ended.set)


class TokenUpkeep:
    """One token's share of the work. `node` is the name under which the node counts."""

    def __init__(
        self,
        node: str,
        token: OpenToken,
        counts: UsageCounts,
        calls: BlockingCalls,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = _utc_now,
    ) -> None:
        self.name = token.name
        self._node = node
        self._token = token
        self._counts = counts
        self._calls = calls
        self._now = now
        self._wall = wall
        self._looked_at = self._watched_since = wall()
        """Since when it would have been noticed if somebody had used the token's keys."""
        self._turn = asyncio.Lock()
        self._telling: _Telling | None = None
        self._failures: dict[str, str] = {}
        self._log = get_logger("upkeep")

    async def run_forever(self, interval_s: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.tell_usage()
            await self.do_what_is_due()

    async def tell_usage(self) -> bool:
        """Tells the token what was signed since the last time; False where it could not be told."""
        async with self._turn:
            if self._telling is not None:
                # Its caller was cancelled, as happens at a stop; its thread goes on.
                await self._told(self._telling)
            taken = self._counts.take(self.name, self._wall(), self._now())
            if not taken:
                return True
            self._telling = _Telling(self._token.admin, self._node, taken)
            await self._calls.run(self._telling.tell)
            return await self._told(self._telling)

    async def _told(self, telling: _Telling) -> bool:
        """Waits until a telling has ended, and takes back what could not be told."""
        await telling.ended.wait()
        self._telling = None
        if telling.error is None:
            self._failures.pop("usage_not_told", None)
            return True
        self._counts.give_back(self.name, telling.taken)
        self._failed("usage_not_told", telling.error)
        return False

    async def do_what_is_due(self) -> None:
        """Has keys retired and destroyed whose time has come."""
        holder = self._token.backend or self._token.awaited
        wall = self._wall()
        self._watch(wall)
        if holder is None or not may_be_due(holder, wall):
            return
        try:
            said = await self._calls.run(lambda: run_due(self._token.admin, wall, self._watched_since))
        except Exception as error:
            self._failed("keys_not_looked_after", error)
            return
        self._failures.pop("keys_not_looked_after", None)
        for sentence in said:
            self._log.warning("key_was_due", token=self.name, what=sentence)

    def _watch(self, wall: datetime) -> None:
        """A key that nobody used while the node slept or its token was away may be in use all the same."""
        slept_s = (wall - self._looked_at).total_seconds()
        if self._token.state() != "up" or not 0 <= slept_s <= MAX_GAP_S:
            self._watched_since = wall
        self._looked_at = wall

    def _failed(self, event: str, error: Exception) -> None:
        # Only what the token's owner may be told is known to hold no secret.
        refusal = self._token.refusal_of(error)
        sentence = refusal.sentence if refusal is not None else type(error).__name__
        if self._failures.get(event) != sentence:
            self._log.error(event, token=self.name, error=sentence, hint="it is tried again")
        self._failures[event] = sentence


async def tell_all(upkeeps: Iterable[TokenUpkeep], timeout_s: float) -> None:
    """The last time, when a node stops: all tokens at once, `timeout_s` at most."""
    waits = [asyncio.wait_for(upkeep.tell_usage(), timeout_s) for upkeep in upkeeps]
    await asyncio.gather(*waits, return_exceptions=True)
