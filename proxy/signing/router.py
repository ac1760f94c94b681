"""The router: decides which node signs which job, when another is asked, who waits and when it is over. Pure.

Theory of operation. A job is always in exactly one of three places: at a node (it has an `Attempt`), in the queue
(`WaitingJobs`), or over. Every method takes what happened and the time, and returns commands, in the order in which
they must be carried out. The caller keeps two promises: it reports `on_attempt_timeout` when an attempt's deadline
comes, and calls `on_time` at `next_time()`. Then every job ends once, and not later than its deadline.

A signature has no side effect, so another node may always be asked. What a failure means for the job:

    busy, draining       the node is left out for a while; does not count, the next node is asked at once
    key not found        the inventory learns it; the next node is asked
    denied               this node will never sign this job; the next node is asked
    timeout, link lost,  counts; the next node is asked at once; when every node has failed, the job rests
    node error, wrong    (longer each round) before a second round; after `max_attempts` it fails with the last reason
    malformed and such   the request is wrong everywhere: the job fails

No node to take it (full, busy, down) lets a job wait in the queue until capacity or a link returns. This will grow
better choice, windows and hedging; `selection.py` and `NodeLoad` are the places for the first two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random

from proxy.base.errors import SigningError, SigningReason
from proxy.base.policy import SigningPolicy
from proxy.signing.commands import Attempt, CancelAttempt, Command, Fail, Finish, RoutedJob, SendTo
from proxy.signing.inventory import MAX_REMEMBERED, Inventory
from proxy.signing.selection import LeastOutstanding, NodeLoad
from proxy.signing.waiting import NEVER, WaitingJobs

BUSY_MIN_S = 0.01
BUSY_MAX_S = 2.0
"""A busy node is left out between these bounds, whatever it asks for."""
_UNCOUNTED = frozenset({SigningReason.BUSY, SigningReason.DRAINING, SigningReason.KEY_NOT_FOUND, SigningReason.DENIED})
_MAKES_SUSPECT = frozenset({SigningReason.TIMEOUT, SigningReason.NODE_ERROR, SigningReason.WRONG_SIGNATURE})


class Router:
    """Routes jobs to nodes, without I/O; see the theory of operation above."""

    def __init__(self, nodes: Sequence[str], policy: SigningPolicy, *, rng: Random) -> None:
        self._policy = policy
        self._rng = rng
        self._selection = LeastOutstanding(rng)
        self._inventory = Inventory(nodes)
        self._loads = {name: NodeLoad(name, policy.max_in_flight_per_node) for name in nodes}
        self._waiting: WaitingJobs[RoutedJob] = WaitingJobs(policy.max_waiting_jobs)
        self._active: dict[RoutedJob, None] = {}  # in the order in which they were sent
        self._holders: dict[bytes, tuple[NodeLoad, ...]] = {}
        self._revision = -1
        self._is_stopping = False

    # questions

    @property
    def waiting(self) -> int:
        """Jobs no node has yet."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """Jobs at a node."""
        return len(self._active)

    @property
    def inventory(self) -> Inventory:
        """Which node holds which key; for reading."""
        return self._inventory

    def load_of(self, node: str) -> NodeLoad:
        """The load of one node; for reading."""
        return self._loads[node]

    def has_node_for(self, ski: bytes, now: float) -> bool:
        """Whether a node that is up holds the key, or may hold it."""
        return any(load.is_up for load in self._holders_of(ski, now))

    def next_time(self, now: float) -> float:
        """When `on_time` is due; infinity when nothing waits."""
        if not self._waiting:
            return NEVER
        soonest = self._waiting.next_time()
        if self._waiting.has_ready():
            for load in self._loads.values():
                if now < load.busy_until < soonest and load.is_up:
                    soonest = load.busy_until
        return soonest

    # jobs

    def submit(self, routed: RoutedJob, now: float) -> list[Command]:
        """Begin a job: send it, let it wait, or refuse it."""
        commands: list[Command] = []
        if self._is_stopping:
            self._fail(routed, SigningError(SigningReason.STOPPED, "the proxy is stopping"), commands)
        else:
            self._place(routed, now, commands)
        return commands

    def cancel(self, routed: RoutedJob, now: float) -> list[Command]:
        """Nobody wants the signature any more: it leaves the queue, or its node is told. No `Fail` follows."""
        commands: list[Command] = []
        if routed.is_over:
            return commands
        routed.is_over = True
        self._waiting.remove(routed)
        attempt = routed.attempt
        if attempt is not None:
            self._end_attempt(attempt)
            commands.append(CancelAttempt(attempt))
            self._fill(attempt.load, now, commands)
        return commands

    def stop(self) -> list[Command]:
        """Fail every job that waits; take no new ones. Jobs at a node may finish."""
        self._is_stopping = True
        commands: list[Command] = []
        for routed in self._waiting.take_all():
            self._fail(routed, SigningError(SigningReason.STOPPED, "the proxy is stopping"), commands)
        return commands

    def abandon(self) -> list[Command]:
        """Fail every job that is left, at once."""
        commands = self.stop()
        for routed in list(self._active):
            attempt = routed.attempt
            if attempt is not None:
                self._end_attempt(attempt)
                commands.append(CancelAttempt(attempt))
            self._fail(routed, SigningError(SigningReason.STOPPED, "the proxy is stopping"), commands)
        return commands

    # what became of an attempt

    def on_signed(self, attempt: Attempt, signature: bytes, now: float) -> list[Command]:
        """The node signed. Nothing happens when the attempt was given up already."""
        commands: list[Command] = []
        if attempt.is_over:
            return commands
        load, routed = attempt.load, attempt.routed
        self._end_attempt(attempt)
        load.is_suspect = False
        load.busy_streak = 0
        routed.is_over = True
        commands.append(Finish(routed, signature, load.name))
        if self._waiting:
            self._fill(load, now, commands)
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
        routed, load = attempt.routed, attempt.load
        self._end_attempt(attempt)
        self._learn(load, routed, error.reason, now, retry_after_s)
        routed.last_error = error
        if load.name not in routed.tried:
            routed.tried += (load.name,)
        if error.reason not in _UNCOUNTED:
            routed.attempts += 1
        if is_final or routed.attempts >= self._policy.max_attempts:
            self._fail(routed, error, commands)
        else:
            self._place(routed, now, commands)
        self._fill(load, now, commands)
        return commands

    def on_attempt_timeout(self, attempt: Attempt, now: float) -> list[Command]:
        """The attempt's deadline came without an answer."""
        return self.on_error(attempt, SigningError(SigningReason.TIMEOUT, "no answer in time", node=attempt.node), now)

    # what became of a node

    def on_node_changed(self, node: str, now: float, *, is_up: bool) -> list[Command]:
        """The node came into rotation, or went out of it. Attempts under way there go on."""
        load = self._loads[node]
        load.is_up = is_up
        commands: list[Command] = []
        if is_up:
            load.is_suspect, load.busy_until, load.busy_streak = False, 0.0, 0
            # A job that rests has perhaps not been tried here yet.
            for routed in self._waiting.take_resting():
                self._place(routed, now, commands)
            self._fill(load, now, commands)
        return commands

    def on_link_lost(self, node: str, now: float) -> list[Command]:
        """The last link of the node is gone: its jobs go elsewhere at once."""
        load = self._loads[node]
        load.is_up = load.is_paused = False
        error = SigningError(SigningReason.LINK_LOST, "the link was lost", node=node)
        commands: list[Command] = []
        for routed in list(self._active):
            if routed.attempt is not None and routed.attempt.load is load:
                commands += self.on_error(routed.attempt, error, now)
        return commands

    def on_paused(self, node: str, now: float, *, is_paused: bool) -> list[Command]:
        """The node's links take no more bytes for now, or again."""
        load = self._loads[node]
        load.is_paused = is_paused
        commands: list[Command] = []
        self._fill(load, now, commands)
        return commands

    def on_keys(self, node: str, skis: Iterable[bytes] | None, now: float) -> list[Command]:
        """The node listed its keys (None: it can't). Jobs that no node can ever sign fail now."""
        self._inventory.learn(node, skis)
        commands: list[Command] = []
        for routed in self._waiting.take_all():
            self._place(routed, now, commands)
        return commands

    def on_key_missing(self, node: str, ski: bytes, now: float) -> None:
        """A probe found that the node lacks a key."""
        self._inventory.learn_missing(node, ski, now)

    def on_proven(self, node: str) -> None:
        """A probe was signed well: whatever went wrong before, the node signs."""
        self._loads[node].is_suspect = False

    def on_time(self, now: float) -> list[Command]:
        """Act on every deadline, rest and busy time that has come."""
        commands: list[Command] = []
        for routed in list(self._waiting.take_expired(now)):
            self._fail_late(routed, now, commands)
        for routed in list(self._waiting.take_rested(now)):
            self._place(routed, now, commands)
        for load in self._loads.values():
            self._fill(load, now, commands)
        return commands

    # decisions

    def _place(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        """Send a job to the best node, or let it wait, or fail it."""
        if now >= routed.deadline:
            return self._fail_late(routed, now, commands)
        holders = self._holders_of(routed.ski, now)
        load = self._selection.choose(holders, now, routed.tried)
        if load is None and routed.tried and now >= routed.not_before:
            load = self._choose_again(routed, holders, now)
        if load is not None:
            return self._send(routed, load, now, commands)
        if all(holder.name in routed.refused for holder in holders):
            return self._fail_nowhere(routed, commands)
        self._wait(routed, now, commands)
        return None

    def _choose_again(self, routed: RoutedJob, holders: Sequence[NodeLoad], now: float) -> NodeLoad | None:
        """Begin another round, in which every node may be asked once more."""
        load = self._selection.choose(holders, now, routed.refused)
        if load is not None:
            routed.rounds += 1
            routed.tried = routed.refused
        return load

    def _send(self, routed: RoutedJob, load: NodeLoad, now: float, commands: list[Command]) -> None:
        attempt = Attempt(routed, load, now, min(now + self._policy.attempt_timeout_s, routed.deadline))
        routed.attempt = attempt
        load.in_flight += 1
        self._active[routed] = None
        commands.append(SendTo(attempt))

    def _wait(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        if self._is_stopping:
            self._fail(routed, SigningError(SigningReason.STOPPED, "the proxy is stopping"), commands)
        elif self._waiting.is_full:
            self._fail(routed, SigningError(SigningReason.QUEUE_FULL, f"{self.waiting} jobs wait already"), commands)
        elif routed.tried and now < routed.not_before:
            self._waiting.add(routed, rest_until=routed.not_before)
        elif routed.refused:
            # Not every node will do for this job, so it can't stand in the heap of those for which any will.
            self._waiting.add(routed, rest_until=now + self._policy.retry_backoff_s)
        else:
            self._waiting.add(routed)

    def _fill(self, load: NodeLoad, now: float, commands: list[Command]) -> None:
        """Give waiting jobs to a node that may have room. Each turn sends or ends one job, so this ends."""
        while self._waiting:
            routed = self._waiting.first_ready(lambda ski: self._is_due(ski, load, now))
            if routed is None:
                return
            self._waiting.remove(routed)
            self._place(routed, now, commands)

    def _is_due(self, ski: bytes, load: NodeLoad, now: float) -> bool:
        holders = self._holders_of(ski, now)
        return not holders or (load in holders and load.can_take(now))

    def _holders_of(self, ski: bytes, now: float) -> tuple[NodeLoad, ...]:
        self._inventory.forget_due(now)
        if self._inventory.revision != self._revision:
            self._holders.clear()
            self._revision = self._inventory.revision
        found = self._holders.get(ski)
        if found is None:
            found = tuple(self._loads[name] for name in self._inventory.holders(ski, now))
            if len(self._holders) >= MAX_REMEMBERED:
                self._holders.clear()
            self._holders[ski] = found
        return found

    # bookkeeping

    def _learn(
        self, load: NodeLoad, routed: RoutedJob, reason: SigningReason, now: float, retry_after_s: float | None
    ) -> None:
        """What a failure says about the node, and about this node for this job."""
        if reason is SigningReason.BUSY:
            grown_s = min(BUSY_MIN_S * (1 << min(load.busy_streak, 8)), BUSY_MAX_S)
            load.busy_streak += 1
            load.busy_until = now + (
                grown_s if retry_after_s is None else min(max(retry_after_s, BUSY_MIN_S), BUSY_MAX_S)
            )
        elif reason is SigningReason.DRAINING:
            load.is_up = False
        elif reason is SigningReason.KEY_NOT_FOUND:
            self._inventory.learn_missing(load.name, routed.ski, now)
        elif reason is SigningReason.DENIED:
            routed.refused += (load.name,)
        else:
            load.is_suspect = load.is_suspect or reason in _MAKES_SUSPECT
            rest_s = self._policy.retry_backoff_s * (1 << min(routed.rounds, 8))
            routed.not_before = now + rest_s * self._rng.uniform(0.5, 1.0)

    def _end_attempt(self, attempt: Attempt) -> None:
        attempt.is_over = True
        attempt.routed.attempt = None
        attempt.load.in_flight -= 1
        self._active.pop(attempt.routed, None)

    def _fail(self, routed: RoutedJob, error: SigningError, commands: list[Command]) -> None:
        routed.is_over = True
        commands.append(Fail(routed, error))

    def _fail_late(self, routed: RoutedJob, now: float, commands: list[Command]) -> None:
        last = f"; last answer: {routed.last_error}" if routed.last_error else ""
        if self.has_node_for(routed.ski, now):
            error = SigningError(SigningReason.DEADLINE, f"{routed.attempts} attempts failed{last}")
        else:
            error = SigningError(SigningReason.NO_NODE, f"no node that is up holds key {routed.ski.hex()}{last}")
        self._fail(routed, error, commands)

    def _fail_nowhere(self, routed: RoutedJob, commands: list[Command]) -> None:
        """Every node that could have signed said that it never will."""
        if routed.refused and routed.last_error is not None:
            self._fail(routed, routed.last_error, commands)
        else:
            error = SigningError(SigningReason.KEY_NOT_FOUND, f"no node holds key {routed.ski.hex()}")
            self._fail(routed, error, commands)
