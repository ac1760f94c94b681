"""The router: decides which node signs which job, when another is asked, who waits and when it is over. Pure.

Theory of operation. A job is always in exactly one of three places: at a node (it has an `Attempt`, perhaps a second
one beside it, the hedge), in the queue (`WaitingJobs`), or over. Every method takes what happened and the time, and
returns commands, in the order in which they must be carried out. The caller keeps two promises: it reports
`on_attempt_timeout` when an attempt's deadline comes, and calls `on_time` at `next_time()`. Then every job ends
once, and not later than its deadline.

A signature has no side effect, so another node may always be asked. What a failure means for the job:

    busy, draining       the node is left out for a while; does not count, the next node is asked at once
    key not found        the inventory learns it; the next node is asked
    denied               this node will never sign this job; the next node is asked
    link lost            counts; the next node is asked at once
    timeout, node error, counts, and is paid for by the retry budget: where that is used up, the job rests; the next
    wrong signature      node is asked; when every node has failed, the job rests (longer each round)
    malformed and such   the request is wrong everywhere: the job fails

What happens to nodes (windows, suspicion, ejection) is in `fleet.py`; the choice among them in `selection.py`. No node
to take a job (full, busy, down) lets it wait in the queue until capacity or a link returns, if it can expect its turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from hsm.wire.schemes import KeyType
from proxy.base.errors import SigningError, SigningReason
from proxy.base.policy import NodeAddress, RoutingPolicy, SigningPolicy
from proxy.signing import endings
from proxy.signing.commands import Attempt, CancelAttempt, Command, Finish, RoutedJob
from proxy.signing.dispatch import Dispatch
from proxy.signing.facts import NodeFacts
from proxy.signing.fleet import Fleet
from proxy.signing.inventory import Inventory
from proxy.signing.pressure import NO_PRESSURE, Pressure
from proxy.signing.queueing import JobQueue
from proxy.signing.selection import BestOfTwo, NodeLoad, Selection


class Router:
    """Routes jobs to nodes, without I/O; see the theory of operation above."""

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        policy: SigningPolicy,
        routing: RoutingPolicy | None = None,
        *,
        rng: Random,
        kinds: Mapping[bytes, KeyType] | None = None,
        site_weights: Mapping[str, float] | None = None,
        selection: Selection | None = None,
    ) -> None:
        routing = routing or RoutingPolicy()
        self._policy, self._rng = policy, rng
        self._fleet = Fleet(nodes, policy, routing, kinds or {})
        self._queue = JobQueue(policy, routing, site_weights or {})
        self._waiting = self._queue.jobs
        selection = selection or BestOfTwo(routing, rng)
        self._dispatch = Dispatch(self._fleet, self._queue, selection, policy, routing)

    # questions

    @property
    def waiting(self) -> int:
        """Jobs no node has yet."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Attempts under way."""
        return len(self._dispatch.attempts)

    @property
    def inventory(self) -> Inventory:
        """Which node holds which key; for reading."""
        return self._fleet.inventory

    @property
    def fleet(self) -> Fleet:
        """The nodes and their numbers; for reading."""
        return self._fleet

    def load_of(self, node: str) -> NodeLoad:
        """The load of one node; for reading."""
        return self._fleet.loads[node]

    def has_node_for(self, ski: bytes, now: float) -> bool:
        """Whether a node that can be asked holds the key, or may hold it."""
        return self._fleet.has_node_for(ski, now)

    def pressure(self, now: float, site: str = "") -> Pressure:
        """Whether capacity is short for a site, or ("") for any: cheap enough to be asked for each handshake."""
        return self._queue.pressure(now, site, self._fleet.rate_per_s) if self._waiting else NO_PRESSURE

    def next_time(self, now: float) -> float:
        """When `on_time` is due; infinity when nothing is."""
        soonest = min(self._fleet.next_return(), self._dispatch.hedges.next_time())
        if self._waiting:
            soonest = min(soonest, self._waiting.next_time())
            if self._waiting.has_ready():
                soonest = min(soonest, self._fleet.next_chance(now))
        return soonest

    # jobs

    def submit(self, routed: RoutedJob, now: float) -> list[Command]:
        """Begin a job: send it, let it wait, or refuse it."""
        commands: list[Command] = []
        self._dispatch.retries.earn()
        self._dispatch.hedges.earn()
        if self._dispatch.is_stopping:
            self._dispatch.fail(routed, endings.stopped(), commands)
        else:
            self._fleet.note_job(routed.job, now)
            if self._waiting.has_line(routed.site, routed.ski):
                # Who came earlier waits: there is no room, and no need to look.
                self._dispatch.refuse(self._queue.enter(routed, self._fleet.seats_of(routed.ski, now), now), commands)
            else:
                self._dispatch.place(routed, now, commands)
        return commands

    def cancel(self, routed: RoutedJob, now: float) -> list[Command]:
        """Nobody wants the signature any more: it leaves the queue, or its nodes are told. No `Fail` follows."""
        commands: list[Command] = []
        if routed.is_over:
            return commands
        routed.is_over = True
        self._waiting.remove(routed)
        for attempt in (routed.attempt, routed.hedge):
            if attempt is not None:
                self._dispatch.attempts.end(attempt)
                commands.append(CancelAttempt(attempt))
                self._dispatch.fill(attempt.seat.load, now, commands)
        return commands

    def stop(self) -> list[Command]:
        """Fail every job that waits; take no new ones. Jobs at a node may finish."""
        self._dispatch.is_stopping = True
        commands: list[Command] = []
        for routed in self._waiting.take_all():
            self._dispatch.fail(routed, endings.stopped(), commands)
        return commands

    def abandon(self) -> list[Command]:
        """Fail every job that is left, at once."""
        commands = self.stop()
        for attempt in self._dispatch.attempts.all():
            self._dispatch.attempts.end(attempt)
            commands.append(CancelAttempt(attempt))
            if not attempt.routed.is_over:
                self._dispatch.fail(attempt.routed, endings.stopped(), commands)
        return commands

    # what became of an attempt

    def on_signed(self, attempt: Attempt, signature: bytes, now: float) -> list[Command]:
        """The node signed. Nothing happens when the attempt was given up already."""
        commands: list[Command] = []
        if attempt.is_over:
            return commands
        seat, routed = attempt.seat, attempt.routed
        self._fleet.signed(seat, now - attempt.started, now)
        self._dispatch.attempts.end(attempt)
        routed.is_over = True
        commands.append(Finish(routed, signature, seat.name, attempt.is_hedge))
        other = routed.attempt or routed.hedge
        if other is not None:
            self._dispatch.outrun(other, now, commands)
        if self._waiting:
            self._dispatch.fill(seat.load, now, commands)
        return commands

    def on_error(
        self,
        attempt: Attempt,
        error: SigningError,
        now: float,
        *,
        retry_after_s: float | None = None,
        is_final: bool = False,
    ) -> list[Command]:
        """The node did not sign. `is_final` says that no other node would either."""
        commands: list[Command] = []
        if attempt.is_over:
            return commands
        routed = attempt.routed
        self._fleet.failed(attempt, error.reason, now, retry_after_s, commands)
        self._dispatch.attempts.end(attempt)
        endings.note(routed, attempt.node, error, now, self._policy.retry_backoff_s * self._rng.uniform(0.5, 1.0))
        if routed.attempt is None and routed.hedge is None:
            self._dispatch.try_again(routed, error, now, commands, is_final=is_final)
        if error.reason in endings.NARROWS:
            self._dispatch.rest_the_lonely(now, commands)
        self._dispatch.fill_all(now, commands)
        return commands

    def on_attempt_timeout(self, attempt: Attempt, now: float) -> list[Command]:
        """The attempt's deadline came without an answer."""
        return self.on_error(attempt, SigningError(SigningReason.TIMEOUT, "no answer in time", node=attempt.node), now)

    # what became of a node

    def on_facts(self, node: str, facts: NodeFacts, now: float) -> list[Command]:
        """What links and probes say of the node has changed. Attempts under way there go on."""
        commands: list[Command] = []
        was_usable = self._fleet.loads[node].is_up
        is_better = self._fleet.learn_facts(node, facts, now)
        if was_usable and not facts.is_usable:
            self._dispatch.rest_the_lonely(now, commands)
        if is_better:
            self._dispatch.place_all(self._waiting.take_resting(), now, commands)
        self._dispatch.fill_all(now, commands)
        return commands

    def on_link_lost(self, node: str, now: float) -> list[Command]:
        """The last link of the node is gone: its jobs go elsewhere at once."""
        commands = self.on_facts(node, NodeFacts(), now)
        load = self._fleet.loads[node]
        load.is_paused = False
        error = SigningError(SigningReason.LINK_LOST, "the link was lost", node=node)
        for attempt in self._dispatch.attempts.at(load):
            commands += self.on_error(attempt, error, now)
        return commands

    def on_paused(self, node: str, now: float, *, is_paused: bool) -> list[Command]:
        """The node's links take no more bytes for now, or again."""
        load = self._fleet.loads[node]
        load.is_paused = is_paused
        commands: list[Command] = []
        self._dispatch.fill(load, now, commands)
        return commands

    def on_keys(self, node: str, skis: Iterable[bytes] | None, now: float) -> list[Command]:
        """The node listed its keys (None: it can't). Jobs that no node can ever sign fail now."""
        self.inventory.learn(node, skis)
        return self._dispatch.place_all(self._waiting.take_all(), now, [])

    def on_key_missing(self, node: str, ski: bytes, now: float) -> list[Command]:
        """A probe found that the node lacks a key. Jobs that no node can ever sign fail now."""
        self.inventory.learn_missing(node, ski, now)
        commands: list[Command] = []
        self._dispatch.rest_the_lonely(now, commands)
        self._dispatch.fill_all(now, commands)
        return commands

    def on_proven(self, node: str, ski: bytes, took_s: float, now: float) -> None:
        """A probe with this key was signed well after so long; b"" for an echo."""
        self._fleet.proven(node, ski, took_s, now)

    def add_node(self, address: NodeAddress, now: float) -> list[Command]:
        """A node has come; it is asked once facts and keys are known of it."""
        self._fleet.add(address)
        return []

    def remove_node(self, node: str, now: float) -> list[Command]:
        """A node is gone for good; its jobs go elsewhere at once."""
        commands = self.on_link_lost(node, now)
        self._fleet.remove(node, now)
        return self._dispatch.place_all(self._waiting.take_all(), now, commands)

    def on_time(self, now: float) -> list[Command]:
        """Act on every deadline, rest, hedge, busy time and ejection that has come."""
        commands: list[Command] = []
        if self._fleet.next_return() <= now:
            self._fleet.let_in(now, commands)
            self._dispatch.place_all(self._waiting.take_resting(), now, commands)
        for attempt in self._dispatch.hedges.due(now):
            self._dispatch.hedge(attempt, now, commands)
        if self._waiting:
            for routed in list(self._waiting.take_expired(now)):
                self._dispatch.fail_late(routed, now, commands)
            self._dispatch.place_all(list(self._waiting.take_rested(now)), now, commands)
        self._dispatch.fill_all(now, commands)
        return commands
