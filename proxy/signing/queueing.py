"""Whether a job that no node can take may wait, for what, and who must go for it. Pure.

Three ways to wait: in line for a node that is full; at rest, until the job may try again; and at rest for a node of its
key while none is up. A job is refused at once where its turn would not come in time. In a full queue a late one of the
site with most jobs goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from proxy.base.errors import SigningError
from proxy.base.policy import RoutingPolicy, SigningPolicy
from proxy.signing import endings
from proxy.signing.commands import RoutedJob
from proxy.signing.pressure import NO_PRESSURE, Pressure, PressureGauge
from proxy.signing.selection import Seats
from proxy.signing.waiting import NEVER, WaitingJobs

FEW_SITES = 16
LOOK_S = 0.00005
"""Where more sites than a few have jobs that wait, whether any is short is found out once in so long for each of them:
the door asks in every handshake, and to look at a thousand sites takes as long as a handshake."""
Refused = list[tuple[RoutedJob, SigningError]]
"""Jobs that may not wait, or not any longer, and why."""


class JobQueue:
    """`jobs` are those that wait."""

    def __init__(self, policy: SigningPolicy, routing: RoutingPolicy, weights: Mapping[str, float]) -> None:
        self.jobs: WaitingJobs[RoutedJob] = WaitingJobs(policy.max_waiting_jobs, weights)
        self._longest_s = routing.queue_wait_s
        self._no_node_s = routing.no_node_wait_s
        self._backoff_s = policy.retry_backoff_s
        self._gauges: dict[str, PressureGauge] = {}
        self._of_any, self._of_any_until = NO_PRESSURE, 0.0
        self._attempt_s = policy.attempt_timeout_s

    def enter(self, routed: RoutedJob, seats: Seats, now: float) -> Refused:
        """Let a job wait that none of `seats` can take now."""
        if routed.tried and now < routed.not_before:
            return self.rest(routed, routed.not_before)
        if not any(seat.load.is_up for seat in seats):
            return self._wait_for_node(routed, now)
        if routed.refused:
            # Not every node will do for this job, so it can't stand in the line of those for which any will.
            return self.rest(routed, now + self._backoff_s)
        self.jobs.set_patience(routed.site, self._patience_s(seats))
        wait_s = self.jobs.expected_wait_s(routed.site, now)
        if wait_s > self._longest_s or now + wait_s + seats[0].pace.usual.median_s > routed.deadline:
            return [(routed, endings.shed(wait_s, len(self.jobs)))]
        refused = self._make_room(routed)
        if not _is_among(refused, routed):
            self.jobs.add(routed)
        return refused

    def rest(self, routed: RoutedJob, until: float) -> Refused:
        """Let a job wait that shall not be tried before `until`."""
        refused = self._make_room(routed)
        if not _is_among(refused, routed):
            self.jobs.add(routed, rest_until=until)
        return refused

    def pressure(self, now: float, site: str, rate_per_s: Callable[[float], float]) -> Pressure:
        """How short capacity is for a site, or ("") for the first site for which it is."""
        if site:
            return self._pressure_of(site, now, rate_per_s)
        if now < self._of_any_until:
            return self._of_any
        found, sites = NO_PRESSURE, self.jobs.sites()
        for each in sites:
            found = self._pressure_of(each, now, rate_per_s)
            if found.is_short:
                break
        if len(sites) > FEW_SITES:
            self._of_any, self._of_any_until = found, now + LOOK_S * len(sites)
        return found

    def _pressure_of(self, site: str, now: float, rate_per_s: Callable[[float], float]) -> Pressure:
        gauge = self._gauges.get(site)
        if gauge is None:
            self._gauges[site] = gauge = PressureGauge(self._longest_s)
        return gauge.read(self.jobs.expected_wait_s(site, now), partial(self._rate_of, site, now, rate_per_s))

    def _patience_s(self, seats: Seats) -> float:
        """Places become free when answers come, so for an answer's time it says nothing that none does."""
        if any(seat.load.is_up and not seat.can_take_more and seat.load.window.is_unknown for seat in seats):
            # While a full window still doubles, how fast jobs will leave the line is anybody's guess.
            return NEVER
        return 2 * seats[0].pace.usual.median_s or self._attempt_s

    def _rate_of(self, site: str, now: float, of_all: Callable[[float], float]) -> float:
        return self.jobs.rate_per_s(site, now) or of_all(now)

    def _wait_for_node(self, routed: RoutedJob, now: float) -> Refused:
        if not routed.waits_until:
            routed.waits_until = now + self._no_node_s
        if now >= routed.waits_until:
            return [(routed, endings.too_late(routed, has_node=False))]
        return self.rest(routed, routed.waits_until)

    def _make_room(self, routed: RoutedJob) -> Refused:
        if not self.jobs.is_full:
            return []
        waiting = len(self.jobs)
        victim = self.jobs.newest_of_longest(routed.site)
        if victim is not None:
            self.jobs.remove(victim)
        return [(victim or routed, endings.queue_full(waiting))]


def _is_among(refused: Refused, routed: RoutedJob) -> bool:
    """Whether `routed` is among those that must go."""
    return any(job is routed for job, _ in refused)
