"""What the proxy's metrics say of a fault: who was asked, for how long still, and from when on again. Pure.

Attempts are counted when they begin: those that ended plus those under way. So a node that hangs is seen to get no
more of them at once, and not when the last has timed out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from proxy.chaos.figures import Window

EJECTED_SHARE = 0.01
"""A node that gets less of all attempts than this, until the fault is over, gets no more of them for good."""
SHORTEST_REST_S = 1.0
"""What happens in less time than this before the end says nothing."""
FULL_SHARE = 0.8
"""Of its fair share, the n-th part of all attempts among n nodes, over `SHARE_SPAN_S`."""
SHARE_SPAN_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The proxy's counters at one time (monotonic seconds)."""

    at: float
    begun: Mapping[str, float]
    """Attempts begun, by node."""
    attempts: float
    """Attempts that ended, at all nodes."""
    jobs: float
    """Signatures wanted that ended, for good or bad."""
    waiting: float
    """Jobs that no node could take."""
    failures: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """Failed jobs and handshakes, by site and by what the proxy says of them."""


def share_between(first: Sample, last: Sample, node: str) -> float | None:
    """A node's part of all attempts that began between two samples; None where none began."""
    total = sum(last.begun.values()) - sum(first.begun.values())
    return (last.begun.get(node, 0.0) - first.begun.get(node, 0.0)) / total if total > 0 else None


def time_to_eject(samples: Sequence[Sample], node: str, window: Window) -> float | None:
    """Seconds from the fault to the first sample from which the node gets next to nothing until the end; else None."""
    inside = [each for each in samples if window.fault <= each.at <= window.end]
    for each in inside:
        if window.end - each.at < SHORTEST_REST_S:
            return None
        share = share_between(each, inside[-1], node)
        if share is not None and share < EJECTED_SHARE:
            return round(each.at - window.fault, 2)
    return None


def time_to_full_share(samples: Sequence[Sample], node: str, window: Window) -> float | None:
    """Seconds from the end of the fault until the node gets its share again, over the second that follows; or None."""
    later = [each for each in samples if window.end <= each.at <= window.close]
    enough = FULL_SHARE / max(1, len(later[0].begun)) if later else 0.0
    for number, each in enumerate(later):
        until = next((other for other in later[number:] if other.at >= each.at + SHARE_SPAN_S), None)
        if until is None:
            return None
        share = share_between(each, until, node)
        if share is not None and share >= enough:
            return round(each.at - window.end, 2)
    return None


def share_during(samples: Sequence[Sample], node: str, window: Window) -> float | None:
    """The node's part of all attempts in the second half of the fault."""
    middle = (window.fault + window.end) / 2
    inside = [each for each in samples if middle <= each.at <= window.end]
    share = share_between(inside[0], inside[-1], node) if len(inside) > 1 else None
    return None if share is None else round(share, 3)


def jobs_and_extra(samples: Sequence[Sample], window: Window) -> tuple[int, int]:
    """Jobs that ended from the fault to `close`, and the attempts beyond one for each."""
    inside = [each for each in samples if window.fault <= each.at <= window.close]
    if not inside:
        return 0, 0
    jobs = inside[-1].jobs - inside[0].jobs
    return int(jobs), max(0, int(inside[-1].attempts - inside[0].attempts - jobs))


def reasons_between(samples: Sequence[Sample], window: Window, site: str | None = None) -> dict[str, int]:
    """What the proxy says of jobs and handshakes that failed, of one site or of all, from `begin` to `close`."""
    inside = [each.failures for each in samples if window.begin <= each.at <= window.close]
    found: Counter[str] = Counter()
    for key, count in inside[-1].items() if inside else ():
        if site in (None, key[0]):
            found[key[1]] += int(count - inside[0].get(key, 0.0))
    return {reason: count for reason, count in found.most_common() if count > 0}


def peak_waiting(samples: Sequence[Sample], window: Window) -> int:
    """The most jobs that waited at once, as far as samples saw it."""
    return int(max((each.waiting for each in samples if window.fault <= each.at <= window.close), default=0))
