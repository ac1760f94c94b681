"""The requests a client has sent and not seen answered: ids, deadlines, bounds.

An id is *live* while somebody waits for its answer, and *abandoned* after its request expired or was cancelled while
the answer may still come. It is free for another request only after the answer, so a late answer meets no stranger.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import IntEnum
from heapq import heapify, heappop, heappush

from hsm.wire.errors import LinkFull, WireError
from hsm.wire.layout import MAX_U32

CONTROL_SLOTS = 16
"""Pings and lists of keys that may be in flight beside a full load of signatures, so that health stays visible."""

_HEAP_SLACK = 64


class RequestKind(IntEnum):
    """What a request wants, which says how its answer is read."""

    SIGN = 1
    PING = 2
    LIST_KEYS = 3


class RequestsInFlight:
    """Ids of one link. At most `max_live` live ids and as many again abandoned before new requests are refused."""

    __slots__ = ("_abandoned", "_heap", "_last_id", "_live", "_max_live")

    def __init__(self, max_live: int, last_id: int = 0) -> None:
        self._max_live = max_live
        self._live: dict[int, tuple[float, int, RequestKind]] = {}
        self._abandoned: dict[int, RequestKind] = {}
        # Entries stay in the heap after the answer until they come to its top or are swept out by `_sweep`.
        self._heap: list[tuple[float, int, RequestKind]] = []
        self._last_id = last_id

    def __len__(self) -> int:
        return len(self._live)

    @property
    def is_full(self) -> bool:
        """Whether another signature is refused."""
        return len(self._live) >= self._max_live or len(self._abandoned) >= self._max_live

    @property
    def is_stalled(self) -> bool:
        """Whether so many answers are overdue that the link should be closed."""
        return len(self._abandoned) >= self._max_live

    def start(self, kind: RequestKind, deadline: float) -> int:
        """An id for a new request. Raises LinkFull."""
        slots = self._max_live if kind is RequestKind.SIGN else self._max_live + CONTROL_SLOTS
        if len(self._live) >= slots or len(self._abandoned) >= slots:
            raise LinkFull(f"{len(self._live)} requests are in flight and {len(self._abandoned)} answers overdue")
        request_id = self._free_id()
        entry = (deadline, request_id, kind)
        self._live[request_id] = entry
        heappush(self._heap, entry)
        if len(self._heap) > _HEAP_SLACK + 2 * len(self._live):
            self._sweep()
        return request_id

    def _free_id(self) -> int:
        request_id = self._last_id
        while True:
            request_id = request_id + 1 if request_id < MAX_U32 else 1
            if request_id not in self._live and request_id not in self._abandoned:
                self._last_id = request_id
                return request_id

    def _sweep(self) -> None:
        self._heap = list(self._live.values())
        heapify(self._heap)

    def kind_of(self, request_id: int) -> tuple[RequestKind, bool]:
        """The kind of an unanswered request and whether somebody waits for it. WireError if there is none."""
        entry = self._live.get(request_id)
        if entry is not None:
            return entry[2], True
        kind = self._abandoned.get(request_id)
        if kind is None:
            raise WireError(f"an answer to request {request_id}, which is not in flight")
        return kind, False

    def finish(self, request_id: int) -> RequestKind | None:
        """The answer came: its kind if somebody waits for it, None if it is to be dropped. The id is free.

        Raises WireError if no such request is in flight.
        """
        entry = self._live.pop(request_id, None)
        if entry is not None:
            return entry[2]
        if self._abandoned.pop(request_id, None) is None:
            raise WireError(f"an answer to request {request_id}, which is not in flight")
        return None

    def abandon(self, request_id: int) -> bool:
        """Nobody waits any more; tell whether somebody did."""
        entry = self._live.pop(request_id, None)
        if entry is None:
            return False
        self._abandoned[request_id] = entry[2]
        return True

    def expire(self, now: float) -> list[int]:
        """Abandon the requests whose deadline has come, earliest first."""
        expired: list[int] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            request_id = heappop(self._heap)[1]
            self.abandon(request_id)
            expired.append(request_id)
        return expired

    def next_deadline(self) -> float | None:
        """The earliest deadline of a live request."""
        heap, live = self._heap, self._live
        while heap:
            entry = heap[0]
            if live.get(entry[1]) is entry:
                return entry[0]
            heappop(heap)
        return None

    def lose_all(self) -> Collection[int]:
        """Forget everything; the ids somebody waited for, oldest first."""
        lost = list(self._live)
        self._live.clear()
        self._abandoned.clear()
        self._heap.clear()
        return lost
