"""Open tokens as a service works with them: their lanes, and which token signs with which key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hsm.backends.attributes import KeyAttributes, Purpose
from hsm.backends.base import KeyHolder
from hsm.node.admission import Lane
from hsm.node.observe import LaneName, LaneStatus, TokenStatus
from hsm.node.opening.opened import OpenToken
from hsm.node.runners import AHEAD_PER_THREAD, AwaitedRunner, Ends, LoopTurns, Runner, ThreadRunner
from hsm.node.usage import KeyCount, UsageCounts
from hsm.wire.messages import KeyEntry


class ServedToken:
    """One token and the lanes in which its requests wait."""

    def __init__(
        self,
        token: OpenToken,
        turns: LoopTurns,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        ends: Ends,
    ) -> None:
        self.token = token
        self.name = token.name
        self.holder: KeyHolder
        self.runners: dict[LaneName, Runner]
        self.key_count = 0
        """Keys it signs with; those that an earlier token holds too are not counted."""
        if token.backend is not None:
            self.holder = token.backend
            lane = Lane(token.places, token.queue, ahead=AHEAD_PER_THREAD * token.places)
            self.runners = {
                LaneName.CHEAP: turns.runner(token.backend, token.loop_queue),
                LaneName.DEAR: ThreadRunner(token.backend, lane, loop, clock, ends),
            }
        elif token.awaited is not None:
            self.holder = token.awaited
            lane = Lane(token.places, token.queue)
            self.runners = {LaneName.AWAITED: AwaitedRunner(token.awaited, lane, loop, clock, ends)}
        else:
            raise ValueError(f"token {token.name!r} has no backend")

    def runner_of(self, ski: bytes) -> Runner:
        """What works on requests for this key."""
        if self.token.backend is None:
            return self.runners[LaneName.AWAITED]
        return self.runners[LaneName.CHEAP if self.token.backend.cost(ski) == "cheap" else LaneName.DEAR]

    def status(self) -> TokenStatus:
        """How it is now."""
        return TokenStatus(
            name=self.name,
            kind=self.token.kind,
            state=self.token.state(),
            keys=self.key_count,
            lanes={name: _lane_status(runner.lane) for name, runner in self.runners.items()},
            details=dict(self.token.details()),
        )

    def stop(self, timeout_s: float) -> bool:
        """Ends the work of its lanes; False where something hangs in it."""
        ended = [runner.stop(timeout_s) for runner in self.runners.values()]
        return all(ended)


@dataclass(frozen=True, slots=True)
class ServedKey:
    """A key that the node has, and who signs with it."""

    entry: KeyEntry
    attributes: KeyAttributes
    token: ServedToken
    runner: Runner
    count: KeyCount
    is_tls_only: bool
    """It signs what a TLS server signs, and the node looks at it."""


@dataclass(frozen=True, slots=True)
class Double:
    """A key that two tokens hold; the first of the config signs."""

    ski: bytes
    first: str
    second: str


def serve_keys(tokens: Iterable[ServedToken], counts: UsageCounts) -> tuple[dict[bytes, ServedKey], list[Double]]:
    """Who signs with which key, by SKI; and the keys that came up a second time."""
    served: dict[bytes, ServedKey] = {}
    doubles: list[Double] = []
    for token in tokens:
        token.key_count = 0
        entries = token.holder.keys()
        for entry in entries:
            if (known := served.get(entry.ski)) is not None:
                doubles.append(Double(entry.ski, known.token.name, token.name))
                continue
            attributes = token.holder.attributes_of(entry.ski)
            served[entry.ski] = ServedKey(
                entry,
                attributes,
                token,
                token.runner_of(entry.ski),
                counts.of(token.name, entry.ski),
                attributes.purpose is Purpose.TLS_SERVER,
            )
            token.key_count += 1
        counts.keep_only(token.name, frozenset(entry.ski for entry in entries))
    return served, doubles


def _lane_status(lane: Lane) -> LaneStatus:
    return LaneStatus(
        queued=lane.queued,
        queue_limit=lane.queue_limit,
        in_flight=lane.occupied,
        places=lane.places,
        abandoned=lane.abandoned,
        service_s=lane.service_s,
    )
