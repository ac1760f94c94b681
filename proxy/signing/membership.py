"""Nodes that come and go while the proxy runs: one supervised task per discovery source.

Each task looks its source up, hands the answer to the roster and what it changed to the signer, and sleeps until the
next look-up. Decides nothing: what an answer means is in `discovery.py` and `roster.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Protocol

from hsm.shared.logs import get_logger
from hsm.shared.tasks import Tasks
from proxy.base.observe import LookupOutcome, ProxyObserver
from proxy.base.policy import DiscoverySource, NodeAddress
from proxy.signing.discovery import Answer, LookupPace
from proxy.signing.resolver import look_up
from proxy.signing.roster import Change, Notice, Roster

LookUp = Callable[[DiscoverySource], Awaitable[Answer]]


class NodeHolder(Protocol):
    """What sends jobs to nodes: the signer."""

    def add_node(self, address: NodeAddress) -> None:
        """A node is there. Of a name that is known: its weight is another now, or it is back while it still drained."""

    def remove_node(self, name: str) -> None:
        """A node is gone: no new jobs, those under way get their time, then its links are closed."""


class DiscoverySources:
    """All `[[discovery]]` sources of one worker, between `start` and `stop`.

    `listed` are the nodes of the config, which win over discovered ones of the same address.
    """

    def __init__(
        self,
        sources: Sequence[DiscoverySource],
        listed: Sequence[NodeAddress],
        *,
        holder: NodeHolder,
        observer: ProxyObserver,
        rng: Random | None = None,
        look_up: LookUp = look_up,
    ) -> None:
        self._sources, self._holder, self._observer = tuple(sources), holder, observer
        self._roster = Roster(sources, listed)
        self._rng = rng or Random()
        self._look_up = look_up
        self._tasks = Tasks(observer.task_crashed)
        self._log = get_logger("discovery")

    @property
    def nodes(self) -> tuple[NodeAddress, ...]:
        """The discovered nodes."""
        return self._roster.nodes

    def start(self) -> None:
        """Look every source up at once, and again and again; who needs a node waits for the signer to have one."""
        for source in self._sources:
            self._observer.discovery_known(source.name, 0)
            self._tasks.start(self._keep_looking(source), name=f"discovery {source.name}")

    async def stop(self) -> None:
        """Look up no more. Nodes stay as they are."""
        await self._tasks.stop()

    async def _keep_looking(self, source: DiscoverySource) -> None:
        pace = LookupPace(source.interval_s, self._rng)
        while True:
            answer = await self._ask(source)
            self._take_in(source, answer)
            await asyncio.sleep(pace.delay_s(answer))

    async def _ask(self, source: DiscoverySource) -> Answer:
        try:
            return await self._look_up(source)
        except Exception as error:
            # A defect in looking up must not end discovery for as long as this worker lives.
            self._log.exception("lookup_broke", source=source.name)
            self._observer.task_crashed(f"discovery {source.name}")
            return Answer(LookupOutcome.SERVER_FAILED, detail=type(error).__name__)

    def _take_in(self, source: DiscoverySource, answer: Answer) -> None:
        change = self._roster.answered(source.name, answer)
        self._observer.discovery_answered(source.name, change.outcome)
        for each in self._sources:  # a node may have passed from one to the other
            self._observer.discovery_known(each.name, self._roster.known(each.name))
        self._tell_people(source, change)
        for name in change.removed:
            self._holder.remove_node(name)
        for node in change.added:
            self._holder.add_node(node)

    def _tell_people(self, source: DiscoverySource, change: Change) -> None:
        for notice, why in change.notices:
            if notice is Notice.WORKS_AGAIN:
                self._log.info(notice.value, source=source.name, record=source.record)
            else:
                outcome = change.outcome.value
                self._log.warning(notice.value, source=source.name, record=source.record, outcome=outcome, why=why)
        if change.added or change.removed:
            added = [node.name for node in change.added]
            self._log.info("nodes_discovered", source=source.name, added=added, removed=list(change.removed))
