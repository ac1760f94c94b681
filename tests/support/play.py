"""The router's transcript: what happens to it and what it decides, line by line.

play = RouterPlay(["a", "b"])
play.job(at=0.0).sends_to("a")
play.error("a", BUSY, at=0.1).sends_to("b")
play.reply("b", at=0.2).finishes(by="b")
"""

from __future__ import annotations

from random import Random
from typing import Any

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.policy import SigningPolicy
from proxy.signing.commands import Attempt, CancelAttempt, Command, Fail, Finish, RoutedJob, SendTo
from proxy.signing.router import Router

SKI = bytes(range(20))
OTHER_SKI = bytes(range(20, 40))
SIGNATURE = b"signature"


def policy(**changes: Any) -> SigningPolicy:
    """A policy with the defaults, but for `changes`."""
    return SigningPolicy(ca="ca.pem", certificate="proxy.pem", private_key="proxy.key", **changes)


class InOrder(Random):
    """Chance that always takes the first and the middle, so that transcripts can be foretold."""

    def randrange(self, *_args: int, **_kwargs: Any) -> int:
        return -1

    def uniform(self, a: float, b: float) -> float:
        return b


class Outcome:
    """The commands that one thing led to; each check takes one away, `nothing` and the next line expect none left."""

    def __init__(self, play: RouterPlay, commands: list[Command]) -> None:
        self._play, self._commands = play, commands

    def sends_to(self, node: str) -> Outcome:
        """A job goes to `node`."""
        command = self._next(SendTo)
        assert command.attempt.node == node, f"sent to {command.attempt.node}, not {node}"
        return self

    def finishes(self, *, by: str) -> Outcome:
        """A job has its signature."""
        command = self._next(Finish)
        assert (command.node, command.signature) == (by, SIGNATURE)
        return self

    def fails(self, reason: SigningReason) -> Outcome:
        """A job ends without one."""
        command = self._next(Fail)
        assert command.error.reason is reason, f"failed with {command.error}"
        return self

    def cancels(self, node: str) -> Outcome:
        """A node is told that nobody waits."""
        assert self._next(CancelAttempt).attempt.node == node
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
    """A router, its clock and the attempts under way."""

    def __init__(self, nodes: list[str], *, up: bool = True, rng: Random | None = None, **changes: Any) -> None:
        self.policy = policy(**changes)
        self.router = Router(nodes, self.policy, rng=rng or InOrder())
        self.jobs: list[RoutedJob] = []
        self.attempts: dict[str, list[Attempt]] = {node: [] for node in nodes}
        self._last: Outcome | None = None
        if up:
            for node in nodes:
                self.keys(node, [SKI], at=0.0)
                self.up(node, at=0.0)

    def job(self, *, at: float, ski: bytes = SKI, deadline: float | None = None) -> Outcome:
        """A handshake wants a signature; the last of `jobs`."""
        until = at + self.policy.job_timeout_s if deadline is None else deadline
        job = SignJob(ski=ski, scheme=Scheme.ECDSA_SHA256, message=b"m", site="site", deadline=until)
        self.jobs.append(RoutedJob(job, at, until))
        return self._outcome(self.router.submit(self.jobs[-1], at))

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

    def up(self, node: str, *, at: float) -> Outcome:
        """`node` comes into rotation."""
        return self._outcome(self.router.on_node_changed(node, at, is_up=True))

    def down(self, node: str, *, at: float) -> Outcome:
        """`node` goes out of rotation, its link stays."""
        return self._outcome(self.router.on_node_changed(node, at, is_up=False))

    def pause(self, node: str, *, at: float, is_paused: bool = True) -> Outcome:
        """The links of `node` take no more bytes, or do again."""
        return self._outcome(self.router.on_paused(node, at, is_paused=is_paused))

    def keys(self, node: str, skis: list[bytes] | None, *, at: float) -> Outcome:
        """`node` lists its keys."""
        return self._outcome(self.router.on_keys(node, skis, at))

    def cancel(self, job: int, *, at: float) -> Outcome:
        """The client of one of `jobs` goes away."""
        return self._outcome(self.router.cancel(self.jobs[job], at))

    def time(self, *, at: float) -> Outcome:
        """The router's timer fires; it must have been set for `at`."""
        due = self.router.next_time(at - 1e-6)
        assert abs(due - at) < 1e-9, f"the timer is set for {due}"
        return self._outcome(self.router.on_time(due))

    def stop(self) -> Outcome:
        """The proxy stops."""
        return self._outcome(self.router.stop())

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
