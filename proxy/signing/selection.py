"""Which of the nodes that hold a key is asked. Pure.

Two nodes are drawn at random, by weight, and the one that will likely answer sooner is taken: (requests under way /
weight + 1) x peak-sensitive latency. Two choices are almost as good as looking at all, do not let every worker run
to the same best node at once, and cost the same with 64 nodes as with three. Where a zone is preferred, two are
drawn of each side, and another zone's node must be better by the zone factor.

Nodes are taken from the first of these ranks that has one with room; ranks 3 and 4 only where the ranks above are
empty, because what hangs would cost every job that tries it an attempt's time:

    1. in rotation; where its last answer was an error, it must be better by SUSPECT_PENALTY
    2. in rotation, but a backup, or only because too many are out
    3. in rotation, but its last attempt timed out
    4. out of rotation by results or probes, but with a link: better than no node at all
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from random import Random
from typing import Protocol

from hsm.wire.schemes import KeyFamily
from proxy.base.policy import NodeAddress, RoutingPolicy
from proxy.signing.facts import NodeFacts
from proxy.signing.latency import Pace
from proxy.signing.results import RateMeter, Results
from proxy.signing.window import Window

DRAWS = 4
"""Nodes drawn before all are looked at."""
SUSPECT_PENALTY = 3.0
SICK = 3.0
"""How many times as slow as without a queue a node may be before it counts double: it is not merely busy then."""
LEAST_RAMP = 0.1
"""The share of its jobs with which a node comes back."""


class NodeLoad:
    """One node in this worker: what the router knows and the choice needs."""

    __slots__ = (
        "busy_streak",
        "busy_until",
        "capacity_per_s",
        "facts",
        "failed_ski",
        "failing_since",
        "in_flight",
        "is_backup",
        "is_local",
        "is_paused",
        "key_limit",
        "last_good",
        "limit",
        "must_ramp",
        "name",
        "out_families",
        "paces",
        "rate",
        "reluctant_families",
        "results",
        "returned_at",
        "suspect_is_hung",
        "suspect_until",
        "weight",
        "window",
    )

    def __init__(self, address: NodeAddress, routing: RoutingPolicy, ceiling: int) -> None:
        self.name = address.name
        self.weight = 1.0
        """Its share beside the heaviest node, which has 1; the router keeps it."""
        self.is_backup = address.backup
        self.capacity_per_s = address.capacity_per_s
        """What the operator says of it; 0 where he says nothing."""
        self.is_local = not routing.zone or address.zone == routing.zone
        self.window = Window(
            initial=routing.window_initial,
            floor=routing.window_min,
            ceiling=ceiling,
            tolerance=routing.window_tolerance,
        )
        self.limit = self.window.limit
        self.key_limit = self.limit
        """Of `limit`, what one key may have."""
        self.in_flight = 0
        self.paces: dict[str, Pace] = {}
        """By kind of key."""
        self.facts = NodeFacts()
        self.results = Results(routing)
        self.failing_since = 0.0
        """Since when it is ejected or probes fail; 0 where neither is so."""
        self.out_families: frozenset[KeyFamily] = frozenset()
        """It is out of rotation for keys of these."""
        self.reluctant_families: frozenset[KeyFamily] = frozenset()
        """It should be out for keys of these, but too many are."""
        self.is_paused = False
        """Every link's send buffer is full."""
        self.busy_until = 0.0
        """The node said it is busy; nothing is sent before this time."""
        self.busy_streak = 0
        """Busy answers in a row."""
        self.suspect_until = 0.0
        """Two keys have failed here, with no good answer since."""
        self.suspect_is_hung = False
        """The last of them by a timeout."""
        self.failed_ski = b""
        self.last_good = 0.0
        self.returned_at = -1e9
        self.must_ramp = False
        """It is not new when it comes into rotation next: it gets its share slowly."""
        self.rate = RateMeter()

    @property
    def is_up(self) -> bool:
        """Whether links and probes allow it to be asked."""
        return self.facts.is_usable

    def can_take(self, now: float) -> bool:
        """Whether one more request may be sent now, its rank aside."""
        return self.in_flight < self.limit and self.facts.is_usable and now >= self.busy_until and not self.is_paused

    def share_now(self, now: float, ramp_up_s: float) -> float:
        """Its weight, less while it has come back only just."""
        since_s = now - self.returned_at
        if since_s >= ramp_up_s:
            return self.weight
        return self.weight * max(LEAST_RAMP, since_s / ramp_up_s)

    def __repr__(self) -> str:
        return f"NodeLoad({self.name!r}, in_flight={self.in_flight}, limit={self.limit}, is_up={self.is_up})"


class Seat:
    """One key at one node."""

    __slots__ = ("family", "in_flight", "load", "name", "pace", "results", "ski", "suspect_is_hung", "suspect_until")

    def __init__(self, ski: bytes, family: KeyFamily, load: NodeLoad, pace: Pace, routing: RoutingPolicy) -> None:
        self.ski, self.family, self.load, self.pace = ski, family, load, pace
        self.name = load.name
        self.in_flight = 0
        self.results = Results(routing)
        self.suspect_until = 0.0
        """Its last answer was a failure; an answer, a probe or this time clears it."""
        self.suspect_is_hung = False
        """The failure was a timeout: to try again costs as much."""

    def can_take(self, now: float) -> bool:
        """Whether one more request for this key may be sent now, its rank aside."""
        return self.in_flight < self.load.key_limit and self.load.can_take(now)

    @property
    def can_take_more(self) -> bool:
        """Whether its window has room for this key."""
        return self.load.in_flight < self.load.limit and self.in_flight < self.load.key_limit

    def is_free(self, now: float) -> bool:
        """Whether it may be asked now, with nothing against it: `can_take` and rank 1, for the hot path."""
        load = self.load
        return (
            load.in_flight < load.limit
            and self.in_flight < load.key_limit
            and load.facts.is_usable
            and now >= load.busy_until
            and not (load.is_paused or load.is_backup or self.results.out_until)
            and (now >= self.suspect_until or not self.suspect_is_hung)
            and (now >= load.suspect_until or not load.suspect_is_hung)
            and (not load.out_families or self.family not in load.out_families)
            and (not load.reluctant_families or self.family not in load.reluctant_families)
        )

    def rank(self, now: float) -> int:
        """1 (best) to 4, see the module; 5 where it can't be asked at all."""
        load = self.load
        if not load.facts.is_usable:
            return 5
        if self.results.out_until or (load.out_families and self.family in load.out_families):
            return 4
        if now < self.suspect_until and self.suspect_is_hung:
            return 3
        if now < load.suspect_until and load.suspect_is_hung:
            return 3
        return 2 if load.is_backup or self.family in load.reluctant_families else 1

    def __repr__(self) -> str:
        return f"Seat({self.ski.hex()[:8]} at {self.load!r})"


class Seats(tuple[Seat, ...]):
    """The nodes that hold one key, or may hold it; `near` and `far` are those of the own zone and of others."""

    near: tuple[Seat, ...]
    far: tuple[Seat, ...]
    by_name: dict[str, Seat]

    @property
    def least_s(self) -> float:
        """With less time than this, half of what is usual, a job is not worth a signature any more."""
        return self[0].pace.usual.median_s / 2 if self else 0.0

    @classmethod
    def of(cls, seats: Iterable[Seat]) -> Seats:
        """Sort them."""
        made = cls(seats)
        made.by_name = {seat.name: seat for seat in made}
        made.near = tuple(seat for seat in made if seat.load.is_local)
        made.far = tuple(seat for seat in made if not seat.load.is_local)
        return made


class Selection(Protocol):
    """A way to choose."""

    def choose(self, seats: Seats, now: float, avoid: Container[str] = ()) -> Seat | None:
        """The node to ask, or None where none of `seats` outside `avoid` can take a request now."""


class BestOfTwo:
    """Two at random, the better one; see the module."""

    def __init__(self, routing: RoutingPolicy, rng: Random) -> None:
        self._random = rng.random
        self._ramp_up_s = routing.ramp_up_s
        self._zone_factor = routing.zone_factor

    def choose(self, seats: Seats, now: float, avoid: Container[str] = ()) -> Seat | None:
        """See Selection."""
        near, far = seats.near, seats.far
        if not far:
            best = self._best_of_two(near, now, avoid)
        elif not near:
            best = self._best_of_two(far, now, avoid)
        else:
            best = self._best_of_two(near, now, avoid)
            other = self._best_of_two(far, now, avoid)
            if other is not None and (
                best is None or self._score(best, now) > self._score(other, now) * self._zone_factor
            ):
                best = other
        return best or self._by_rank(seats, now, avoid)

    def _best_of_two(self, seats: Sequence[Seat], now: float, avoid: Container[str]) -> Seat | None:
        """Of the first rank only; None where none was found by a few draws."""
        count = len(seats)
        if not count:
            return None
        first: Seat | None = None
        index = 0
        for _ in range(DRAWS):
            if first is None:
                index = int(self._random() * count)
            else:
                index = (index + 1 + int(self._random() * (count - 1))) % count
            seat = seats[index]
            if seat is first or seat.name in avoid or not self._is_drawn(seat, now):
                continue
            if first is None:
                first = seat
                if count == 1:
                    return first
            else:
                return first if self._score(first, now) <= self._score(seat, now) else seat
        return first

    def _is_drawn(self, seat: Seat, now: float) -> bool:
        if not seat.is_free(now):
            return False
        load = seat.load
        if load.weight == 1.0 and now - load.returned_at >= self._ramp_up_s:
            return True
        return self._random() < load.share_now(now, self._ramp_up_s)

    def _by_rank(self, seats: Seats, now: float, avoid: Container[str]) -> Seat | None:
        """Look at all of them."""
        best: tuple[int, float, Seat] | None = None
        has_rotation = has_calm = False
        for seat in seats:
            rank = seat.rank(now)
            has_calm = has_calm or (rank <= 2 and seat.name not in avoid)
            has_rotation = has_rotation or rank <= 3
            if rank > 4 or seat.name in avoid or not seat.can_take(now):
                continue
            score = self._score(seat, now)
            if not seat.load.is_local:
                score *= self._zone_factor
            if best is None or (rank, score) < best[:2]:
                best = (rank, score, seat)
        if best is None or (best[0] == 3 and has_calm) or (best[0] == 4 and has_rotation):
            return None
        return best[2]

    def _score(self, seat: Seat, now: float) -> float:
        """Likely seconds until an answer; lower is better."""
        load, pace = seat.load, seat.pace
        latency_s = pace.expected_s(now)
        sick_s = pace.base_s * SICK
        if 0 < sick_s < latency_s:
            latency_s *= latency_s / sick_s
        if now < seat.suspect_until or now < load.suspect_until:
            latency_s *= SUSPECT_PENALTY
        if load.weight == 1.0 and now - load.returned_at >= self._ramp_up_s:
            return (load.in_flight + 1.0) * latency_s
        return (load.in_flight / load.share_now(now, self._ramp_up_s) + 1.0) * latency_s
