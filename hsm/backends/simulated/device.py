"""A device as narrow, slow and faulty as an HSM: requests and `now` in, finish times and verdicts out.

Pure: no clock, no loop, no keys, no signatures; the randomness is the caller's. It serves behind a node, and millions
of requests in a discrete-event simulator: `submit`, then `advance` to `next_event()`, again and again.

Theory of operation. A request takes one of `concurrency` places, waits in the device's own queue, or is answered busy
when that is full, too. In its place it first is on its way (network, library, firmware) and then in the engine, which
signs one request after another, each for 1/rate seconds of its kind of key. The way takes what is left of a latency
drawn from a log-normal distribution; so a request that meets nobody takes the drawn latency (but never less than
1/rate), and no window of T seconds sees more than T x rate + 1 signatures. The place is held until the end.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from hsm.backends.simulated.faults import DEFAULT_FACTOR, DEFAULT_RESTART_S, ActiveFault, Fault, FaultKind
from hsm.backends.simulated.warp import WarpedClock
from hsm.wire.schemes import KeyType

T = TypeVar("T")

Z99 = 2.3263478740408408
"""99th percentile of the normal distribution: ln(p99 / median) of a log-normal one is this many sigmas."""
MIN_RETRY_S = 0.005
MAX_RETRY_S = 5.0


class Verdict(Enum):
    """How a request ended."""

    GOOD = "good"
    WRONG = "wrong"
    """Signed, but the signature is to be wrong."""
    FAILED = "failed"
    """The device answered with an error."""
    BUSY = "busy"
    """All places and the device's queue were full."""
    NO_KEY = "no-key"
    CRASHED = "crashed"
    """It was in the device when that crashed."""
    DOWN = "down"
    """It came while the device restarted."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How fast one kind of key signs."""

    rate: float
    """Signatures per second, at most."""
    median_s: float
    """Median latency of a request that meets nobody."""
    p99_s: float

    def __post_init__(self) -> None:
        if not (self.rate > 0 and 0 <= self.median_s <= self.p99_s):
            raise ValueError(f"a rate is above 0, a median from 0 to the 99th percentile: {self}")


@dataclass(frozen=True, slots=True)
class DeviceModel:
    """What a device is like while it is well."""

    figures: Mapping[KeyType, Figures]
    """For every type of key that will be asked for."""
    concurrency: int
    """Requests that it works on at once."""
    queue: int
    """Requests that wait in it; more are answered busy."""

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.queue < 0:
            raise ValueError("a device needs a place, and its queue can't be negative")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """One request ended."""

    item: T
    verdict: Verdict
    at: float
    began: float
    """When it got its place; `at`, where it never did."""
    retry_after_s: float | None = None
    """With BUSY and DOWN: when the device may have room again."""


class _Work(Generic[T]):
    __slots__ = ("began", "item", "label", "type")

    def __init__(self, item: T, type_: KeyType, label: str) -> None:
        self.item = item
        self.type = type_
        self.label = label
        self.began = 0.0


class SimulatedDevice(Generic[T]):
    """One device. `now` never goes back from one call to the next."""

    def __init__(self, model: DeviceModel, rng: random.Random, now: float = 0.0) -> None:
        self.model = model
        self.counts: Counter[Verdict] = Counter()
        """Requests by how they ended."""
        self._rng = rng
        self._now = now
        self._clock = WarpedClock(now)
        self._waiting: deque[_Work[T]] = deque()
        self._on_their_way: list[tuple[float, int, _Work[T]]] = []
        self._in_engine: deque[tuple[float, _Work[T]]] = deque()
        self._engine_free = now
        self._sequence = 0
        self._done: list[Done[T]] = []
        self._faults: dict[str, ActiveFault] = {}
        self._lost: tuple[Fault, ...] = ()
        self._spoiling: tuple[tuple[Fault, Verdict], ...] = ()
        self._next_change = math.inf
        self._down_until: float | None = None
        self._due = math.inf
        self._is_change_due = False
        self._is_arrival_due = False
        self._shape = {type_: _shape(figures) for type_, figures in model.figures.items()}

    # requests

    @property
    def occupied(self) -> int:
        """Places that are taken."""
        return len(self._on_their_way) + len(self._in_engine)

    @property
    def waiting(self) -> int:
        """Requests in the device's queue."""
        return len(self._waiting)

    @property
    def is_down(self) -> bool:
        """Whether it restarts after a crash."""
        return self._down_until is not None

    def submit(self, now: float, item: T, type_: KeyType, label: str) -> None:
        """Hands in a request; `advance` will return it exactly once, at the earliest in its next call."""
        self._run(now)
        work = _Work(item, type_, label)
        if self._down_until is not None:
            self._refuse(work, Verdict.DOWN, min(MAX_RETRY_S, max(MIN_RETRY_S, self._down_until - now)))
        elif self.occupied < self.model.concurrency:
            self._admit(work, self._clock.inner(now))
            self._reckon()
        elif len(self._waiting) < self.model.queue:
            self._waiting.append(work)
        else:
            self._refuse(work, Verdict.BUSY, self._room_in_s())

    def advance(self, now: float) -> list[Done[T]]:
        """What ended up to `now` and was not returned yet, in the order of time."""
        self._run(now)
        done, self._done = self._done, []
        return done

    def next_event(self) -> float | None:
        """When `advance` is worth a call, if nothing is submitted before; None: not before something is."""
        if self._done:
            return self._now
        return self._due if self._due < math.inf else None

    # faults

    def set_fault(self, now: float, fault: Fault) -> ActiveFault:
        """Switches a fault on, in the place of one of its name. Raises ValueError where `fault.problem()` says so."""
        problem = fault.problem()
        if problem is not None:
            raise ValueError(problem)
        self._run(now)
        duration_s = fault.duration_s
        if fault.kind is FaultKind.CRASH:
            duration_s = duration_s if duration_s is not None else DEFAULT_RESTART_S
            self._lose_everything()
        active = ActiveFault(fault=fault, since=now, until=None if duration_s is None else now + duration_s)
        self._faults[fault.name] = active
        self._faults_changed(now)
        return active

    def clear_faults(self, now: float, names: Iterable[str] | None = None) -> tuple[ActiveFault, ...]:
        """Switches faults off: those of these names, or all. Returns those that were on."""
        self._run(now)
        names = list(self._faults) if names is None else list(names)
        cleared = tuple(self._faults.pop(name) for name in names if name in self._faults)
        self._faults_changed(now)
        return cleared

    @property
    def faults(self) -> tuple[ActiveFault, ...]:
        """Those that are on, oldest first."""
        return tuple(self._faults.values())

    def has_lost(self, label: str) -> bool:
        """Whether a fault has taken the key of this label away."""
        return any(fault.concerns(label) for fault in self._lost)

    # the machinery

    def _run(self, now: float) -> None:
        """Lives through everything that happens up to `now`, in the order of time."""
        while self._due <= now:
            # Rounding may put an event a hair before the moment at which its clock was changed.
            self._now = max(self._now, self._due)
            if self._is_change_due:
                self._expire(self._due)
            elif self._is_arrival_due:
                self._enter_engine()
            else:
                self._leave_engine()
            self._reckon()
        self._now = max(self._now, now)

    def _reckon(self) -> None:
        """Finds out what happens next: a request reaches the engine or leaves it, or a fault ends."""
        arrival = self._on_their_way[0][0] if self._on_their_way else math.inf
        leaving = self._in_engine[0][0] if self._in_engine else math.inf
        self._is_arrival_due = arrival < leaving
        first = arrival if arrival < leaving else leaving
        at = self._clock.outer(first) if first < math.inf else math.inf
        self._is_change_due = self._next_change < at
        self._due = self._next_change if self._is_change_due else at

    def _admit(self, work: _Work[T], inner: float) -> None:
        work.began = self._now
        if self._lost and self.has_lost(work.label):
            self._end(work, Verdict.NO_KEY)
            return
        engine_s, mu, sigma = self._shape[work.type]
        latency_s = math.exp(self._rng.gauss(mu, sigma)) if mu > -math.inf else 0.0
        self._sequence += 1
        heapq.heappush(self._on_their_way, (inner + max(0.0, latency_s - engine_s), self._sequence, work))

    def _enter_engine(self) -> None:
        inner, _, work = heapq.heappop(self._on_their_way)
        self._engine_free = max(inner, self._engine_free) + self._shape[work.type][0]
        self._in_engine.append((self._engine_free, work))

    def _leave_engine(self) -> None:
        inner, work = self._in_engine.popleft()
        self._end(work, self._verdict(work.label))
        while self._waiting and self.occupied < self.model.concurrency:
            self._admit(self._waiting.popleft(), inner)

    def _verdict(self, label: str) -> Verdict:
        for fault, verdict in self._spoiling:
            if fault.concerns(label) and self._rng.random() < (1.0 if fault.rate is None else fault.rate):
                return verdict
        return Verdict.GOOD

    def _end(self, work: _Work[T], verdict: Verdict) -> None:
        self.counts[verdict] += 1
        self._done.append(Done(work.item, verdict, self._now, work.began))

    def _refuse(self, work: _Work[T], verdict: Verdict, retry_after_s: float) -> None:
        self.counts[verdict] += 1
        self._done.append(Done(work.item, verdict, self._now, self._now, retry_after_s))

    def _room_in_s(self) -> float:
        """When something will move next: a place may become free then."""
        return min(MAX_RETRY_S, max(MIN_RETRY_S, self._due - self._now))

    def _lose_everything(self) -> None:
        works = [work for _, work in self._in_engine]
        works += [work for _, _, work in sorted(self._on_their_way, key=lambda entry: entry[:2])]
        for work in works:
            self._end(work, Verdict.CRASHED)
        for work in self._waiting:
            work.began = self._now
            self._end(work, Verdict.CRASHED)
        self._in_engine.clear()
        self._on_their_way.clear()
        self._waiting.clear()
        self._engine_free = -math.inf

    def _expire(self, at: float) -> None:
        self._now = max(self._now, at)
        for name, active in list(self._faults.items()):
            if active.until is not None and active.until <= at:
                del self._faults[name]
        self._faults_changed(at)

    def _faults_changed(self, now: float) -> None:
        on = [active.fault for active in self._faults.values()]
        speed = 0.0 if any(fault.kind is FaultKind.HANG for fault in on) else 1.0
        for fault in on:
            if fault.kind is FaultKind.SLOW:
                speed /= fault.factor if fault.factor is not None else DEFAULT_FACTOR
        self._clock.set_speed(now, speed)
        self._lost = tuple(fault for fault in on if fault.kind is FaultKind.LOST_KEY)
        self._spoiling = tuple(
            (fault, verdict)
            for kind, verdict in ((FaultKind.ERROR, Verdict.FAILED), (FaultKind.WRONG_SIGNATURE, Verdict.WRONG))
            for fault in on
            if fault.kind is kind
        )
        crash = self._faults.get(FaultKind.CRASH.value)
        self._down_until = crash.until if crash is not None else None
        ends = [active.until for active in self._faults.values() if active.until is not None]
        self._next_change = min(ends, default=math.inf)
        self._reckon()


def _shape(figures: Figures) -> tuple[float, float, float]:
    """Seconds in the engine, and mu and sigma of the latency's logarithm."""
    if not figures.median_s:
        return 1.0 / figures.rate, -math.inf, 0.0
    sigma = math.log(figures.p99_s / figures.median_s) / Z99
    return 1.0 / figures.rate, math.log(figures.median_s), sigma
