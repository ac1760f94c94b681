"""The router's transcript: what happens to it and what it decides, line by line.

play = RouterPlay(["a", "b"])
play.job(at=0.0).sends_to("a")
play.error("a", BUSY, at=0.1).sends_to("b")
play.reply("b", at=0.2).finishes(by="b")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random
from typing import Any

from hsm.wire.schemes import KeyFamily, KeyType, Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import NodeAddress, RoutingPolicy, SigningPolicy
from proxy.signing.commands import (
    Attempt,
    CancelAttempt,
    Command,
    DelayRetry,
    Fail,
    Finish,
    NodeEjected,
    NodeReturned,
    RoutedJob,
    SendTo,
)
from proxy.signing.facts import NodeFacts
from proxy.signing.router import Router

SKI = bytes(range(20))
OTHER_SKI = bytes(range(20, 40))
SIGNATURE = b"signature"
UP = NodeFacts(is_usable=True)


def policy(**changes: Any) -> SigningPolicy:
    """A policy with the defaults, but for `changes`."""
    return SigningPolicy(ca="ca.pem", certificate="proxy.pem", private_key="proxy.key", **changes)


def node_address(name: str, **changes: Any) -> NodeAddress:
    """A node that nobody connects to."""
    return NodeAddress(name=name, address="192.0.2.1:2407", **changes)


class InOrder(Random):
    """Chance that always draws the first nodes and the longest pause, so that transcripts can be foretold."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:
        return b


class Outcome:
    """The commands that one thing led to; each check takes one away, `nothing` and the next line expect none left."""

    def __init__(self, play: RouterPlay, commands: list[Command]) -> None:
        self._play, self._commands = play, commands

    def sends_to(self, node: str, *, is_hedge: bool = False) -> Outcome:
        """A job goes to `node`."""
        attempt = self._next(SendTo).attempt
        assert attempt.node == node, f"sent to {attempt.node}, not {node}"
        assert attempt.is_hedge is is_hedge
        return self

    def hedges_at(self, node: str) -> Outcome:
        """`node` is asked beside another."""
        return self.sends_to(node, is_hedge=True)

    def finishes(self, *, by: str, is_hedge: bool = False) -> Outcome:
        """A job has its signature."""
        command = self._next(Finish)
        assert (command.node, command.signature, command.is_hedge) == (by, SIGNATURE, is_hedge)
        return self

    def fails(self, reason: SigningReason, *, job: int | None = None) -> Outcome:
        """A job ends without one."""
        command = self._next(Fail)
        assert command.error.reason is reason, f"failed with {command.error}"
        assert job is None or command.routed is self._play.jobs[job]
        return self

    def cancels(self, node: str) -> Outcome:
        """A node is told that nobody waits."""
        command = self._next(CancelAttempt)
        assert (command.attempt.node, command.is_outrun) == (node, False)
        return self

    def outruns(self, node: str) -> Outcome:
        """A node is told that another was faster."""
        command = self._next(CancelAttempt)
        assert (command.attempt.node, command.is_outrun) == (node, True)
        return self

    def delays(self) -> Outcome:
        """A retry is more than its share, so its job rests."""
        self._next(DelayRetry)
        return self

    def ejects(self, node: str, *, until: float, ski: bytes = b"", why: str = "consecutive") -> Outcome:
        """Results take a node out, or one of its keys."""
        command = self._next(NodeEjected)
        assert (command.node, command.ski, command.why) == (node, ski, why)
        assert abs(command.until - until) < 1e-9, f"out until {command.until}"
        return self

    def returns(self, node: str, *, ski: bytes = b"") -> Outcome:
        """The time of an ejection is over."""
        command = self._next(NodeReturned)
        assert (command.node, command.ski) == (node, ski)
        return self

    def waits(self) -> Outcome:
        """Nothing is commanded and a job is in the queue."""
        self.nothing()
        assert self._play.router.waiting > 0
        return self

    def nothing(self) -> Outcome:
        """Nothing more is commanded."""
        assert not self._commands, f"left over: {self._commands}"
        return self

    def _next(self, kind: type[Any]) -> Any:
        assert self._commands, f"no {kind.__name__}: nothing was commanded"
        command = self._commands.pop(0)
        assert isinstance(command, kind), f"{command!r} is no {kind.__name__}"
        return command


class RouterPlay:
    """A router, its clock and the attempts under way; `changes` go into the signing policy."""

    def __init__(
        self,
        nodes: list[str],
        *,
        up: bool = True,
        rng: Random | None = None,
        routing: Mapping[str, Any] | None = None,
        kinds: Mapping[bytes, KeyType] | None = None,
        **changes: Any,
    ) -> None:
        self.policy = policy(**changes)
        self.routing = RoutingPolicy(**(routing or {}))
        addresses = [node_address(node) for node in nodes]
        self.router = Router(addresses, self.policy, self.routing, rng=rng or InOrder(), kinds=kinds)
        self.jobs: list[RoutedJob] = []
        self.attempts: dict[str, list[Attempt]] = {node: [] for node in nodes}
        self._last: Outcome | None = None
        if up:
            for node in nodes:
                self.keys(node, [SKI], at=0.0)
                self.up(node, at=0.0)

    def job(self, *, at: float, ski: bytes = SKI, deadline: float | None = None, site: str = "site") -> Outcome:
        """A handshake wants a signature; the last of `jobs`."""
        until = at + self.policy.job_timeout_s if deadline is None else deadline
        job = SignJob(ski=ski, scheme=Scheme.ECDSA_SHA256, message=b"m", site=site, deadline=until)
        self.jobs.append(RoutedJob(job, at, until))
        return self._outcome(self.router.submit(self.jobs[-1], at))

    def learn(self, *, at: float, count: int = 100, took_s: float = 0.01, ski: bytes = SKI) -> float:
        """One job after another is signed in `took_s` by whoever is asked; when the last one was."""
        for _ in range(count):
            self.job(at=at, ski=ski)
            self.forget_last()
            attempt = self.jobs[-1].attempt
            assert attempt is not None
            at += took_s
            self.reply(attempt.node, at=at).finishes(by=attempt.node).nothing()
        return at

    def reply(self, node: str, *, at: float) -> Outcome:
        """`node` signs its oldest attempt."""
        return self._outcome(self.router.on_signed(self._oldest(node), SIGNATURE, at))

    def error(
        self, node: str, reason: SigningReason, *, at: float, retry_after_s: float | None = None, is_final: bool = False
    ) -> Outcome:
        """`node` fails its oldest attempt."""
        error = SigningError(reason, node=node)
        attempt = self._oldest(node)
        return self._outcome(self.router.on_error(attempt, error, at, retry_after_s=retry_after_s, is_final=is_final))

    def timeout(self, node: str, *, at: float) -> Outcome:
        """The oldest attempt at `node` reaches its deadline, which must be `at`."""
        attempt = self._oldest(node)
        assert abs(attempt.deadline - at) < 1e-9, f"its deadline is {attempt.deadline}"
        return self._outcome(self.router.on_attempt_timeout(attempt, at))

    def lose(self, node: str, *, at: float) -> Outcome:
        """The link to `node` breaks."""
        return self._outcome(self.router.on_link_lost(node, at))

    def up(self, node: str, *, at: float, failing: Iterable[KeyFamily] = ()) -> Outcome:
        """`node` may be asked, but for keys of families whose probes fail."""
        return self._outcome(self.router.on_facts(node, NodeFacts(True, frozenset(failing)), at))

    def down(self, node: str, *, at: float) -> Outcome:
        """`node` may not be asked, its link stays."""
        return self._outcome(self.router.on_facts(node, NodeFacts(), at))

    def pause(self, node: str, *, at: float, is_paused: bool = True) -> Outcome:
        """The links of `node` take no more bytes, or do again."""
        return self._outcome(self.router.on_paused(node, at, is_paused=is_paused))

    def keys(self, node: str, skis: list[bytes] | None, *, at: float) -> Outcome:
        """`node` lists its keys."""
        return self._outcome(self.router.on_keys(node, skis, at))

    def lacks(self, node: str, ski: bytes, *, at: float) -> Outcome:
        """A probe found that `node` lacks a key."""
        return self._outcome(self.router.on_key_missing(node, ski, at))

    def proven(self, node: str, *, at: float, ski: bytes = SKI) -> None:
        """A probe with a key was good at `node`."""
        self.router.on_proven(node, ski, 0.01, at)

    def add(self, node: str, *, at: float, skis: list[bytes] | None = None) -> Outcome:
        """A node has come, lists its keys and may be asked."""
        self.attempts[node] = []
        self._outcome(self.router.add_node(node_address(node), at)).nothing()
        self.keys(node, skis or [SKI], at=at).nothing()
        return self.up(node, at=at)

    def remove(self, node: str, *, at: float) -> Outcome:
        """A node is gone for good."""
        return self._outcome(self.router.remove_node(node, at))

    def cancel(self, job: int, *, at: float) -> Outcome:
        """The client of one of `jobs` goes away."""
        return self._outcome(self.router.cancel(self.jobs[job], at))

    def time(self, *, at: float) -> Outcome:
        """The router's timer fires; it must have been set for `at`."""
        due = self.router.next_time(at - 1e-6)
        assert abs(due - at) < 1e-6, f"the timer is set for {due}"
        return self._outcome(self.router.on_time(due))

    def next_time(self, now: float) -> tuple[float, Outcome]:
        """The router's timer fires whenever it was set for; when that is."""
        due = self.router.next_time(now)
        return due, self._outcome(self.router.on_time(due))

    def stop(self) -> Outcome:
        """The proxy stops."""
        return self._outcome(self.router.stop())

    def abandon(self) -> Outcome:
        """The proxy has waited long enough."""
        return self._outcome(self.router.abandon())

    def forget_last(self) -> None:
        """What was commanded last is no matter."""
        self._last = None

    def _oldest(self, node: str) -> Attempt:
        attempts = self.attempts[node] = [attempt for attempt in self.attempts[node] if not attempt.is_over]
        assert attempts, f"nothing is under way at {node}"
        return attempts[0]

    def _outcome(self, commands: list[Command]) -> Outcome:
        if self._last is not None:
            self._last.nothing()
        for command in commands:
            if isinstance(command, SendTo):
                self.attempts[command.attempt.node].append(command.attempt)
        self._last = Outcome(self, list(commands))
        return self._last
