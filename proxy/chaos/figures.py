"""What is known of handshakes and what of a fault, as frozen values, and how the first make the second. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

LATE_S = 0.02
"""A handshake that the load began so long after its time was late: the load was, not the proxy."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """One handshake of the load; times are seconds on the monotonic clock."""

    site: str
    due: float
    """When the schedule wanted it; its latency counts from here, whenever it really began."""
    started: float
    ended: float
    error: str = ""
    """Why it failed; "" for a good one."""

    @property
    def latency_s(self) -> float:
        """From the time it was due to its end."""
        return self.ended - self.due

    @property
    def is_late(self) -> bool:
        """The load itself began it late."""
        return self.started - self.due > LATE_S


@dataclass(frozen=True, slots=True)
class Window:
    """The times of one fault, monotonic seconds: watched from `begin`, on from `fault` to `end`, over at `close`."""

    begin: float
    fault: float
    end: float
    close: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Handshakes of one phase. Latencies are those of good ones, in milliseconds; None where there was none."""

    offered: int
    failed: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    p999_ms: float | None = None
    max_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Phases:
    """The handshakes of a fault, each in one phase."""

    before: tuple[Handshake, ...]
    during: tuple[Handshake, ...]
    after: tuple[Handshake, ...]


@dataclass(frozen=True, slots=True)
class FaultFigures:
    """All that was measured of one fault; docs/chaos.md defines every figure."""

    name: str
    nodes: tuple[str, ...]
    """Those that had it."""
    before: Spread
    during: Spread
    after: Spread
    time_to_eject_s: float | None = None
    time_to_full_share_s: float | None = None
    share_during: float | None = None
    jobs: int = 0
    extra_signatures: int = 0
    peak_waiting: int = 0
    generator_late: int = 0
    cpu_busy: float = 0.0
    """Share of the machine's CPU time that somebody used."""
    longest_failure_s: float | None = None
    """From due to the end, of the slowest that failed."""
    recovery_s: float | None = None
    """All down: first node listening to first good handshake."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """What clients were told."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """What the proxy says of the same."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed (nearest rank). Raises ValueError without values."""
    if not ordered:
        raise ValueError("nothing has no percentiles")
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread_of(handshakes: Iterable[Handshake]) -> Spread:
    """One phase in numbers."""
    found = list(handshakes)
    good = sorted(each.latency_s * 1e3 for each in found if not each.error)
    failed = len(found) - len(good)
    if not good:
        return Spread(len(found), failed)
    p50, p99, p999 = (round(percentile(good, share), 1) for share in (0.5, 0.99, 0.999))
    return Spread(len(found), failed, p50, p99, p999, round(good[-1], 1))


def phases_of(handshakes: Iterable[Handshake], window: Window) -> Phases:
    """During are those that were under way, or due, at any time while the fault was on; the others lie around it."""
    before: list[Handshake] = []
    during: list[Handshake] = []
    after: list[Handshake] = []
    for each in handshakes:
        if not window.begin <= each.due < window.close:
            continue
        if each.due >= window.end:
            after.append(each)
        else:
            (before if each.ended <= window.fault else during).append(each)
    return Phases(tuple(before), tuple(during), tuple(after))


def errors_of(handshakes: Iterable[Handshake]) -> dict[str, int]:
    """How often each error was met, the most frequent first."""
    return dict(Counter(each.error for each in handshakes if each.error).most_common())


def longest_failure(handshakes: Iterable[Handshake]) -> float | None:
    """Seconds from due to the end of the slowest that failed; None where none failed."""
    return max((round(each.latency_s, 3) for each in handshakes if each.error), default=None)


def recovery(handshakes: Iterable[Handshake], back_at: float) -> float | None:
    """Seconds from `back_at` to the end of the first good handshake after it; None where none came."""
    ended = [each.ended for each in handshakes if not each.error and each.ended > back_at]
    return round(min(ended) - back_at, 3) if ended else None
