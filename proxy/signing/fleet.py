"""What the router knows of its nodes: who may be asked, how wide and how fast they are, who is out. Pure.

Two things take a node out of rotation that has a link: probes of a family of keys that fail, and results of jobs that
are bad (`results.py`). A key whose jobs alone go wrong is out at that node only. When more than `max_ejected_share` of
the nodes with a link would be out, the last of them stay in (reluctantly): a check that condemns everybody is more
likely wrong than right. A node that is back begins with a small window and a small share.

A failure makes a node *suspect* for its key until an answer or a probe clears it: so a node that hangs costs the
requests it already has, and not every request until it is ejected. When a second key fails with no good answer in
between, the whole node is suspect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush

from hsm.wire.schemes import KeyFamily, KeyType
from proxy.base.errors import SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import NodeAddress, RoutingPolicy, SigningPolicy
from proxy.signing.capacity import capacity_of
from proxy.signing.commands import Attempt, Command, NodeEjected, NodeReturned
from proxy.signing.facts import NodeFacts
from proxy.signing.headroom import NodeCapacity
from proxy.signing.inventory import MAX_REMEMBERED, Inventory
from proxy.signing.latency import Pace, Usual
from proxy.signing.selection import NodeLoad, Seat, Seats
from proxy.signing.waiting import NEVER

BUSY_MIN_S = 0.01
BUSY_MAX_S = 2.0
"""A busy node is left out between these bounds, whatever it asks for."""
SUSPECT_S = 3.0
CALM_STEP_S = 0.1
KEYS_SPAN_S = 5.0
"""A key counts as in use for up to twice this long after its last job."""
RATE_SPAN_S = 0.05
_FAULTS = frozenset({SigningReason.TIMEOUT, SigningReason.NODE_ERROR})
_ALL = frozenset(KeyFamily)


class Fleet:
    """The nodes, as one worker sees them."""

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        policy: SigningPolicy,
        routing: RoutingPolicy,
        kinds: Mapping[bytes, KeyType],
    ) -> None:
        self._policy, self._routing = policy, routing
        self._has_begun = False
        self._kinds: dict[bytes, tuple[str, KeyFamily]] = {
            ski: (kind.value, kind.family) for ski, kind in kinds.items()
        }
        self._usuals: dict[str, Usual] = {}
        self.inventory = Inventory(())
        self.loads: dict[str, NodeLoad] = {}
        self._weights: dict[str, float] = {}
        self._known: dict[tuple[str, bytes], Seat] = {}
        self._seats: dict[bytes, Seats] = {}
        self._revision = -1
        self._keys: set[bytes] = set()
        self._keys_before: set[bytes] = set()
        self._keys_until = 0.0
        self._returns: list[tuple[float, int, NodeLoad, Seat | None]] = []
        self._returns_made = 0
        self._rate = (0.0, 0.0)
        self._busy_until = 0.0
        """No node is busy any more from this time on."""
        self._calm_times: deque[float] = deque(maxlen=2 * int(SUSPECT_S / CALM_STEP_S))  # when suspicions end
        for address in nodes:
            self.add(address)
        self._has_begun = True

    # who is there

    def add(self, address: NodeAddress) -> None:
        """A node more; nothing is known of it yet."""
        load = NodeLoad(address, self._routing, self._policy.max_in_flight_per_node)
        load.must_ramp = self._has_begun
        self.loads[address.name] = load
        self._weights[address.name] = address.weight
        self.inventory.add(address.name)
        self._weigh()
        self._resize(load)

    def remove(self, node: str, now: float) -> None:
        """A node less."""
        load = self.loads.pop(node)
        del self._weights[node]
        self.inventory.remove(node)
        self._known = {pair: seat for pair, seat in self._known.items() if seat.load is not load}
        self._returns = sorted(entry for entry in self._returns if entry[2] is not load)
        for pace in load.paces.values():
            pace.usual.paces.remove(pace)
        self._weigh()
        self._settle(now)

    def reweigh(self, address: NodeAddress) -> None:
        """The node's share is another now, or it is a backup or none any more."""
        self._weights[address.name] = address.weight
        self.loads[address.name].is_backup = address.backup
        self._weigh()

    def seats_of(self, ski: bytes, now: float) -> Seats:
        """The nodes that hold the key or may hold it, whatever their health."""
        self.inventory.forget_due(now)
        if self.inventory.revision != self._revision:
            self._seats.clear()
            self._revision = self.inventory.revision
        found = self._seats.get(ski)
        if found is None:
            found = Seats.of(self._seat(name, ski) for name in self.inventory.holders(ski, now))
            if len(self._seats) >= MAX_REMEMBERED:
                self._seats.clear()
            self._seats[ski] = found
        return found

    def has_node_for(self, ski: bytes, now: float) -> bool:
        """Whether a node that can be asked holds the key, or may hold it."""
        return any(seat.load.is_up for seat in self.seats_of(ski, now))

    def note_job(self, job: SignJob, now: float) -> None:
        """A job came: its key is in use, which matters to how much of a node one key may take."""
        ski = job.ski
        if ski in self._keys and now < self._keys_until:
            return
        if ski not in self._kinds:
            self._kinds[ski] = (job.scheme.family.value, job.scheme.family)
        was_shared = self._is_shared
        if now >= self._keys_until:
            self._keys_before = self._keys if now < self._keys_until + KEYS_SPAN_S else set()
            self._keys = set()
            self._keys_until = now + KEYS_SPAN_S
        if len(self._keys) < MAX_REMEMBERED:
            self._keys.add(ski)
        if self._is_shared is not was_shared:
            for load in self.loads.values():
                self._resize(load)

    # what became of attempts

    def attempt_timeout_s(self, seat: Seat) -> float:
        """How long to wait for this node: from what its kind of key took lately, here and elsewhere."""
        cap_s = self._policy.attempt_timeout_s
        usual_s = seat.pace.usual.slowest_s
        if not usual_s:
            return cap_s
        wanted_s = max(usual_s, seat.pace.slowest_s) * self._routing.attempt_timeout_factor
        return min(cap_s, max(self._routing.attempt_timeout_min_s, wanted_s))

    def signed(self, seat: Seat, took_s: float, now: float) -> None:
        """A good answer; the attempt still counts as under way."""
        load = seat.load
        seat.pace.add(took_s, now)
        seat.results.good(now)
        load.results.good(now)
        load.rate.add(now)
        load.last_good = now
        load.busy_streak = 0
        seat.suspect_until = load.suspect_until = 0.0
        load.failed_ski = b""
        # A key that has all that one may have has filled its window, too: else no window of one key would ever grow.
        under_way = load.limit if seat.in_flight >= load.key_limit else load.in_flight
        if load.window.answered(seat.pace, took_s, under_way, now):
            self._resize(load)

    def outrun(self, seat: Seat, took_s: float, now: float) -> None:
        """Another node answered first: this one would have taken at least so long."""
        seat.pace.average.add(max(took_s, seat.pace.average.value), now)

    def failed(
        self,
        attempt: Attempt,
        reason: SigningReason,
        now: float,
        retry_after_s: float | None,
        commands: list[Command],
    ) -> None:
        """What a failure says about the node; the attempt still counts as under way."""
        seat = attempt.seat
        load = seat.load
        if reason is SigningReason.BUSY:
            self._make_busy(load, now, retry_after_s)
        elif reason is SigningReason.DRAINING:
            load.facts = replace(load.facts, is_usable=False)
        elif reason is SigningReason.KEY_NOT_FOUND:
            self.inventory.learn_missing(load.name, seat.ski, now)
        elif reason in _FAULTS and not self._was_cut_short(attempt, reason, now):
            if reason is SigningReason.TIMEOUT:
                self._missed(attempt, now)
            self._suspect(seat, now, is_hung=reason is SigningReason.TIMEOUT)
            self._judge(seat, now, commands)
        elif reason is SigningReason.WRONG_SIGNATURE:
            self._suspect(seat, now, is_hung=False)

    def proven(self, node: str, ski: bytes, took_s: float, now: float) -> None:
        """A probe was signed well."""
        load = self.loads.get(node)
        if load is None:
            return
        load.suspect_until = 0.0
        if not ski:
            load.failed_ski = b""
        seat = self._known.get((node, ski))
        if seat is not None:
            seat.suspect_until = 0.0
            seat.pace.add(took_s, now)
            if load.failed_ski == ski:
                load.failed_ski = b""

    # rotation

    def learn_facts(self, node: str, facts: NodeFacts, now: float) -> bool:
        """Links and probes; whether a node may be asked now that could not be before."""
        load = self.loads[node]
        before, load.facts = load.facts, facts
        if facts.is_usable and not before.is_usable:
            load.busy_until, load.busy_streak = 0.0, 0
            load.suspect_until, load.failed_ski = 0.0, b""
            for (name, _ski), seat in self._known.items():
                if name == node:
                    seat.suspect_until = 0.0
            self._begin_again(load, now)
        elif before.failing - facts.failing:
            self._begin_again(load, now)
        self._settle(now)
        return facts.is_usable and (not before.is_usable or bool(before.failing - facts.failing))

    def next_return(self) -> float:
        """When the next ejection is over; infinity when there is none."""
        return self._returns[0][0] if self._returns else NEVER

    def next_chance(self, now: float) -> float:
        """When jobs in line may be sent though nothing else happens: a busy node, or one that hung, is asked again."""
        while self._calm_times and self._calm_times[0] <= now:
            self._calm_times.popleft()
        soonest = self._calm_times[0] if self._calm_times else NEVER
        if now < self._busy_until:
            busy = (load.busy_until for load in self.loads.values() if load.is_up and load.busy_until > now)
            soonest = min(soonest, min(busy, default=NEVER))
        return soonest

    def let_in(self, now: float, commands: list[Command]) -> None:
        """End every ejection whose time has come."""
        while self._returns and self._returns[0][0] <= now:
            _, _, load, seat = heappop(self._returns)
            (seat or load).results.let_in(now)
            if seat is None:
                self._forgive_keys(load)
                self._begin_again(load, now)
            commands.append(NodeReturned(load.name, seat.ski if seat else b""))
        self._settle(now)

    # numbers

    def rate_per_s(self, now: float) -> float:
        """Signatures per second that the nodes in rotation give when they are full, or give now if that is more."""
        at, rate = self._rate
        if now - at > RATE_SPAN_S:
            up = [load for load in self.loads.values() if load.is_up and not load.out_families]
            reckoned = sum(load.limit / load.window.mean_s for load in up if load.window.mean_s)
            rate = max(reckoned, sum(load.rate.read(now) for load in up))
            self._rate = (now, rate)
        return rate

    def capacities(self, now: float) -> list[NodeCapacity]:
        """What each node makes and can make."""
        return [capacity_of(load, self._routing, now) for load in self.loads.values()]

    # machinery

    @property
    def _is_shared(self) -> bool:
        return len(self._keys) > 1 or len(self._keys_before) > 1 or len(self._keys | self._keys_before) > 1

    def _seat(self, name: str, ski: bytes) -> Seat:
        seat = self._known.get((name, ski))
        if seat is None:
            load = self.loads[name]
            kind, family = self._kinds.get(ski) or ("", KeyFamily.EC)
            pace = load.paces.get(kind)
            if pace is None:
                usual = self._usuals.get(kind)
                if usual is None:
                    self._usuals[kind] = usual = Usual(self._routing.hedge_quantile)
                load.paces[kind] = pace = Pace(usual, self._routing.latency_memory_s)
            if len(self._known) >= MAX_REMEMBERED * max(1, len(self.loads)):
                self._known = {pair: kept for pair, kept in self._known.items() if kept.in_flight}
            self._known[name, ski] = seat = Seat(ski, family, load, pace, self._routing)
        return seat

    def _weigh(self) -> None:
        heaviest = max(self._weights.values(), default=1.0)
        for name, weight in self._weights.items():
            self.loads[name].weight = weight / heaviest

    def _resize(self, load: NodeLoad) -> None:
        load.limit = load.window.limit
        share = self._routing.key_share if self._is_shared else 1.0
        load.key_limit = max(1, int(load.limit * share))

    def _forgive_keys(self, load: NodeLoad) -> None:
        """What a node's keys did before it was out is the node's, and paid for; keys that are out stay so."""
        for seat in self._known.values():
            if seat.load is load and not seat.results.out_until:
                seat.results.forget()

    def _begin_again(self, load: NodeLoad, now: float) -> None:
        """A node is back: small window, small share. The first time it is not *back*."""
        load.window.restart(now)
        self._resize(load)
        if load.must_ramp:
            load.returned_at = now
        load.must_ramp = True

    def _make_busy(self, load: NodeLoad, now: float, retry_after_s: float | None) -> None:
        if now >= load.busy_until:
            load.busy_streak += 1  # once for all that were under way
        grown_s = min(BUSY_MIN_S * (1 << min(max(load.busy_streak - 1, 0), 8)), BUSY_MAX_S)
        load.busy_until = now + (grown_s if retry_after_s is None else min(max(retry_after_s, BUSY_MIN_S), BUSY_MAX_S))
        self._busy_until = max(self._busy_until, load.busy_until)
        if load.window.refused(load.in_flight - 1, now):
            self._resize(load)

    def _was_cut_short(self, attempt: Attempt, reason: SigningReason, now: float) -> bool:
        """Whether it was the job's deadline and not the node's that came."""
        if reason is not SigningReason.TIMEOUT or attempt.deadline < attempt.routed.deadline:
            return False
        return now - attempt.started < self.attempt_timeout_s(attempt.seat) * 0.99

    def _missed(self, attempt: Attempt, now: float) -> None:
        """No answer: longer than the wait is all that is known of how long it would have taken."""
        seat, took_s = attempt.seat, now - attempt.started
        seat.pace.average.add(took_s, now)
        seat.pace.digest.add(2 * took_s, now)
        # Where other answers have come meanwhile, the node is not what hangs, and its window is not to blame.
        if seat.load.last_good < attempt.started and seat.load.window.missed(now):
            self._resize(seat.load)

    def _suspect(self, seat: Seat, now: float, *, is_hung: bool) -> None:
        load = seat.load
        seat.suspect_until = now + SUSPECT_S
        seat.suspect_is_hung = is_hung
        if not self._calm_times or self._calm_times[-1] < seat.suspect_until:
            # One time for all that come soon after each other: there are few, however much fails.
            self._calm_times.append(seat.suspect_until + CALM_STEP_S)
        if load.failed_ski not in (b"", seat.ski):
            load.suspect_until = now + SUSPECT_S
            load.suspect_is_hung = is_hung
        load.failed_ski = seat.ski

    def _judge(self, seat: Seat, now: float, commands: list[Command]) -> None:
        why_key, why_node = seat.results.failed(now), seat.load.results.failed(now)
        load = seat.load
        if why_node:
            until = load.results.eject(now)
            self._push_return(until, load, None)
            commands.append(NodeEjected(load.name, b"", why_node, until))
            self._settle(now)
        elif why_key and not load.results.out_until:
            until = seat.results.eject(now)
            self._push_return(until, load, seat)
            commands.append(NodeEjected(load.name, seat.ski, why_key, until))

    def _push_return(self, until: float, load: NodeLoad, seat: Seat | None) -> None:
        self._returns_made += 1
        heappush(self._returns, (until, self._returns_made, load, seat))

    def _settle(self, now: float) -> None:
        """Work out anew who is out of rotation for which families."""
        linked = [load for load in self.loads.values() if load.is_up]
        most_out = int(len(linked) * self._routing.max_ejected_share)
        for load in linked:
            is_bad = bool(load.facts.failing or load.results.out_until)
            load.failing_since = (load.failing_since or now) if is_bad else 0.0
        wanted = {load.name: _ALL if load.results.out_until else load.facts.failing for load in linked}
        linked.sort(key=lambda load: load.failing_since)
        left = dict.fromkeys(KeyFamily, most_out)
        for load in linked:
            out: set[KeyFamily] = set()
            for family in wanted[load.name]:
                if left[family] > 0:
                    left[family] -= 1
                    out.add(family)
            load.out_families = frozenset(out)
            load.reluctant_families = wanted[load.name] - load.out_families
