"""A simulated node: admission as in `hsm.node.admission`, and a device behind it. Pure.

The node has as many requests in its device as that works on at once, lets a bounded number wait, and says busy when
the queue is full or when a newcomer's deadline can't be made. A request that waits can be cancelled; one in the device
costs its signature.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from bench.routing.topology import NodeSpec, SiteSpec
from hsm.backends.simulated.device import Done, SimulatedDevice, Verdict

EWMA_WEIGHT = 0.1
WAIT_MARGIN = 1.25
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 0.005, 5.0


class Request:
    """One request of a proxy, from its sending to its answer."""

    __slots__ = (
        "attempt",
        "deadline",
        "epoch",
        "is_open",
        "is_wanted",
        "node",
        "retry_after_s",
        "sent",
        "site",
        "taken",
        "verdict",
    )

    def __init__(self, node: Any, attempt: Any, site: SiteSpec, sent: float, deadline: float, epoch: int) -> None:
        self.node = node
        self.attempt = attempt
        """None: a probe."""
        self.site = site
        self.sent = sent
        self.deadline = deadline
        self.epoch = epoch
        """The link on which it was sent; what belongs to an older one is lost."""
        self.is_open = True
        """The proxy waits for the answer (used for probes only)."""
        self.is_wanted = True
        """As far as the node knows."""
        self.taken = 0.0
        """When it went into the device; below 0 while it waits in the node."""
        self.verdict = Verdict.GOOD
        self.retry_after_s: float | None = None


class Plant:
    """One node's inside."""

    def __init__(self, spec: NodeSpec, rng: Random) -> None:
        self.spec = spec
        self.device: SimulatedDevice[Request] = SimulatedDevice(spec.model, rng)
        self._places = spec.model.concurrency
        self._in_device = 0
        self._queue: deque[Request] = deque()
        self._queued = 0
        self._service_s = 0.001

    def offer(self, request: Request, now: float) -> bool:
        """A request arrives. False: it was refused, and `verdict` says how."""
        request.taken = -1.0
        waiting = self._queued
        if self._in_device < self._places and not waiting:
            self._begin(request, now)
            return True
        ahead = waiting + self._in_device - self._places + 1
        wait_s = ahead * self._service_s / self._places
        if waiting >= self.spec.queue or now + wait_s * WAIT_MARGIN + self._service_s > request.deadline:
            request.taken = 0.0
            request.verdict = Verdict.BUSY
            request.retry_after_s = min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
            return False
        self._queue.append(request)
        self._queued += 1
        return True

    def cancel(self, request: Request) -> None:
        """Nobody waits for it any more."""
        if request.is_wanted:
            request.is_wanted = False
            if request.taken < 0.0:
                self._queued -= 1

    def advance(self, now: float) -> list[Done[Request]]:
        """What the device has ended; what waits takes the places."""
        done = self.device.advance(now)
        for end in done:
            self._in_device -= 1
            self._service_s += EWMA_WEIGHT * min(20 * self._service_s, now - end.item.taken - self._service_s)
        queue = self._queue
        while queue and self._in_device < self._places:
            request = queue.popleft()
            if request.is_wanted:
                self._queued -= 1
                if request.deadline > now:
                    self._begin(request, now)
                else:
                    request.is_wanted = False
        return done

    def detach(self) -> None:
        """The proxy's link is gone: what waits is dropped, and nobody hears of what is in the device."""
        for request in self._queue:
            request.is_wanted = False
        self._queue.clear()
        self._queued = 0

    def _begin(self, request: Request, now: float) -> None:
        self._in_device += 1
        request.taken = now
        site = request.site
        self.device.submit(now, request, site.kind, site.name)
