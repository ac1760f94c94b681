"""Keeps what a node knows of a token's keys fresh: asks it regularly, and at once when somebody changed keys.

Each token is asked on its own, so that one that hangs keeps no other from being heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hsm.backends.base import BackendError
from hsm.node.blocking import BlockingCalls
from hsm.node.opening.opened import OpenToken
from hsm.shared.logs import get_logger


class TokenRefresh:
    """Asks one token for changed keys; `on_change` hears of them in the event loop."""

    def __init__(
        self,
        token: OpenToken,
        calls: BlockingCalls,
        on_change: Callable[[], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = token.name
        holder = token.backend or token.awaited
        if holder is None:
            raise ValueError(f"token {token.name!r} has no backend")
        self._holder = holder
        self._calls = calls
        self._on_change = on_change
        self._now = now
        self._turn = asyncio.Lock()
        self._refreshed_at = now()
        self._log = get_logger("node")

    @property
    def age_s(self) -> float:
        """Since when the token has not answered."""
        return self._now() - self._refreshed_at

    async def refresh(self) -> None:
        """Takes up what changed. Raises BackendError where the token can't tell."""
        async with self._turn:
            changed = await self._calls.run(self._holder.refresh)
            self._refreshed_at = self._now()
            if changed:
                self._on_change()

    async def refresh_forever(self, interval_s: float) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.refresh()
            except BackendError:
                continue  # logged by the backend; the keys it has go on signing, and /healthz tells when this lasts
            except Exception as error:
                self._log.error("refresh_failed", token=self.name, error=type(error).__name__)
