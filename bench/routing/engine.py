"""The simulation: one heap of events around the pure router, in place of sockets and clocks.

Theory of operation. An event is (time, number, function, argument); the earliest is taken, the clock is set to it, and
its function is called. The shell around the router is that of `proxy.signing.signer` in small: it carries out
commands, reports answers and the end of each attempt's time, and calls `on_time` when the router asks for it, but as
loops count milliseconds, not before the next one. Nodes are `Plant`s, half of a round trip away in each direction.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

from bench.routing import adapter
from bench.routing.checks import Checks
from bench.routing.ledger import GOOD, LEFT, Ledger
from bench.routing.plant import Request
from bench.routing.policies import Policy
from bench.routing.remote import Remote
from bench.routing.topology import Setting, SiteSpec
from hsm.backends.simulated.device import Verdict
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
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

TIMER_GRAIN_S = 0.001
LOOK_EVERY_S = 0.1
SIGNATURE = b"signature"
PAID = frozenset({SigningReason.TIMEOUT, SigningReason.NODE_ERROR, SigningReason.WRONG_SIGNATURE})
REASONS = {
    Verdict.WRONG: SigningReason.WRONG_SIGNATURE,
    Verdict.FAILED: SigningReason.NODE_ERROR,
    Verdict.BUSY: SigningReason.BUSY,
    Verdict.NO_KEY: SigningReason.KEY_NOT_FOUND,
    Verdict.CRASHED: SigningReason.NODE_ERROR,
    Verdict.DOWN: SigningReason.BUSY,
}


class Client:
    """Who waits for a job."""

    __slots__ = ("is_sent", "owes", "site")

    def __init__(self, site: int) -> None:
        self.site = site
        self.is_sent = False
        self.owes = False
        """An attempt failed for a reason that the retry budget pays for."""


class Source:
    """One site's stream of handshakes."""

    def __init__(self, index: int, spec: SiteSpec, rng: Random) -> None:
        self.index, self.spec, self.rng = index, spec, rng
        self.ski = spec.ski
        self.job = SignJob(ski=spec.ski, scheme=spec.scheme, message=b"m", site=spec.name, deadline=float("inf"))
        self.rate = spec.rate
        self.steps = sorted(spec.steps)

    def next_after(self, now: float) -> float:
        """When the next one comes."""
        while self.steps and now >= self.steps[0][0]:
            self.rate = self.spec.rate * self.steps.pop(0)[1]
        if self.rate <= 0.0:
            return self.steps[0][0] if self.steps else float("inf")
        gap = 1.0 / self.rate if self.spec.is_paced else self.rng.expovariate(self.rate)
        if self.steps and now + gap > self.steps[0][0]:
            return self.steps[0][0]
        return now + gap


class Simulation:
    """One run of one policy in one setting. `run` it once; then read `ledger` and `checks.breaches`."""

    def __init__(self, setting: Setting, policy: Policy) -> None:
        self.setting, self.policy = setting, policy
        rng = Random(setting.seed)
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = 0
        self.ledger = Ledger([site.name for site in setting.sites], [node.name for node in setting.nodes])
        self.router = adapter.make_router(
            setting, policy.signing, policy.routing, policy.selection, Random(rng.random())
        )
        self.checks = Checks(self.router, policy.signing, policy.routing, list(setting.sites), self.ledger)
        self._sites = {site.ski: site for site in setting.sites}
        self._sources = [Source(i, site, Random(rng.random())) for i, site in enumerate(setting.sites)]
        self.remotes = {spec.name: Remote(self, spec, Random(rng.random())) for spec in setting.nodes}
        self._timer_at = float("inf")
        self._ticks: dict[int, list[Attempt]] = {}
        self._acts: dict[type, Callable[[Any], None]] = {
            SendTo: self._send,
            Finish: self._finish,
            Fail: self._fail,
            CancelAttempt: self._cancel_attempt,
            DelayRetry: self._delay_retry,
            NodeEjected: self._ejected,
            NodeReturned: self._returned,
        }

    # events

    def at(self, time: float, function: Callable[[Any], None], argument: Any) -> None:
        """Have `function(argument)` called at a time."""
        self._number += 1
        heappush(self._heap, (time, self._number, function, argument))

    def run(self) -> Simulation:
        """Live through everything, until nothing is left to be done."""
        for remote in self.remotes.values():
            remote.start()
        for incident in self.setting.incidents:
            self.at(incident.at, self.remotes[incident.node].strike, incident)
        for source in self._sources:
            self.at(source.next_after(0.0) + 0.1, self._arrive, source)
        self.at(LOOK_EVERY_S, self._look, None)
        longest = max(site.deadline_s for site in self.setting.sites)
        end = self.setting.seconds + min(longest, self.policy.signing.job_timeout_s) + 1.0
        heap = self._heap
        while heap:
            time, _, function, argument = heappop(heap)
            if time > end:
                break
            self.now = time
            function(argument)
        self.now = end
        self.checks.finish(end)
        return self

    def carry_out(self, commands: list[Command]) -> None:
        """Do what the router decided."""
        acts = self._acts
        for command in commands:
            acts[type(command)](command)
        at = self.router.next_time(self.now)
        if at >= self._timer_at:
            return
        earliest = self.now + TIMER_GRAIN_S
        if at < earliest:
            at = earliest
        if at < self._timer_at:
            self._timer_at = at
            self._number += 1
            heappush(self._heap, (at, self._number, self._ring, at))

    def _ring(self, at: float) -> None:
        if at != self._timer_at:
            return
        self._timer_at = float("inf")
        self.carry_out(self.router.on_time(self.now))

    def _look(self, _: None) -> None:
        self.checks.look(self.now)
        if self.now < self.setting.seconds + 1.0:
            self.at(self.now + LOOK_EVERY_S, self._look, None)

    # jobs

    def _arrive(self, source: Source) -> None:
        now = self.now
        spec, ledger = source.spec, self.ledger
        if now > self.setting.seconds or (self.setting.max_jobs and ledger.started >= self.setting.max_jobs):
            return
        following = source.next_after(now)
        self._number += 1
        heappush(self._heap, (following, self._number, self._arrive, source))
        if source.rate <= 0.0:
            return
        ledger.started += 1
        limit_s = min(spec.deadline_s, self.policy.signing.job_timeout_s)
        routed = RoutedJob(source.job, now, now + limit_s, Client(source.index))
        self.checks.submitted(routed)
        if spec.leave_share and source.rng.random() < spec.leave_share:
            self.at(now + source.rng.random() * 2 * spec.leave_after_s, self._leave, routed)
        self.carry_out(self.router.submit(routed, now))

    def _leave(self, routed: RoutedJob) -> None:
        if routed.is_over:
            return
        self.ledger.ended(routed.owner.site, routed.started, self.now - routed.started, LEFT)
        self.checks.ended(routed, self.now)
        self.carry_out(self.router.cancel(routed, self.now))

    def _finish(self, command: Finish) -> None:
        routed = command.routed
        self.checks.ended(routed, self.now)
        self.ledger.ended(routed.owner.site, routed.started, self.now - routed.started, GOOD)

    def _fail(self, command: Fail) -> None:
        routed = command.routed
        self.checks.ended(routed, self.now)
        self.ledger.ended(routed.owner.site, routed.started, self.now - routed.started, command.error.reason.value)

    # attempts

    def _send(self, command: SendTo) -> None:
        attempt: Attempt = command.attempt
        now, routed, ledger = self.now, attempt.routed, self.ledger
        client: Client = routed.owner
        if attempt.is_over:
            return
        self.checks.sent(attempt, now, is_first=not client.is_sent)
        ledger.sends[attempt.node].append(now)
        if attempt.is_hedge:
            ledger.hedges += 1
        elif client.owes:
            client.owes = False
            ledger.retries += 1
        client.is_sent = True
        attempt.wire = self.remotes[attempt.node].ask(attempt, self._sites[routed.ski], attempt.deadline)
        tick = int(attempt.deadline * 1000.0)
        due = self._ticks.get(tick)
        if due is None:
            due = self._ticks[tick] = []
            self.at(max(now, tick / 1000.0), self._tick, tick)
        due.append(attempt)

    def _tick(self, tick: int) -> None:
        """Deadlines of this millisecond: those attempts that are still open get an event at the exact time."""
        for attempt in self._ticks.pop(tick):
            if attempt.wire is not None:
                self.at(max(self.now, attempt.deadline), self._time_out, attempt)

    def _time_out(self, attempt: Attempt) -> None:
        if attempt.wire is None:
            return
        self._give_up(attempt)
        attempt.routed.owner.owes = not attempt.is_over
        self.carry_out(self.router.on_attempt_timeout(attempt, self.now))

    def _cancel_attempt(self, command: CancelAttempt) -> None:
        if command.attempt.wire is not None:
            self.ledger.cancels += 1
            self._give_up(command.attempt)

    def _give_up(self, attempt: Attempt) -> None:
        request, attempt.wire = attempt.wire, None
        request.node.cancel(request)

    def answered(self, request: Request) -> None:
        """A node's answer to a job's request is there."""
        attempt = request.attempt
        if attempt.wire is None:
            return
        attempt.wire = None
        if request.verdict is Verdict.GOOD:
            if attempt.is_hedge and not attempt.is_over:
                self.ledger.hedges_won += 1
            self.carry_out(self.router.on_signed(attempt, SIGNATURE, self.now))
            return
        reason = REASONS[request.verdict]
        if reason is SigningReason.WRONG_SIGNATURE:
            request.node.signed_wrongly()
        self._failed(attempt, reason, request.retry_after_s)

    def refused_draining(self, request: Request) -> None:
        """A node that drains got a request."""
        if request.attempt.wire is not None:
            request.attempt.wire = None
            request.node.said_draining()
            self._failed(request.attempt, SigningReason.DRAINING, None)

    def _failed(self, attempt: Attempt, reason: SigningReason, retry_after_s: float | None) -> None:
        attempt.routed.owner.owes = reason in PAID
        error = SigningError(reason, node=attempt.node)
        self.carry_out(self.router.on_error(attempt, error, self.now, retry_after_s=retry_after_s))

    def _delay_retry(self, command: DelayRetry) -> None:
        self.ledger.delayed_retries += 1
        command.routed.owner.owes = False

    # nodes

    def _ejected(self, command: NodeEjected) -> None:
        self.ledger.ejections.append((self.now, command.node, command.ski, command.why))
        self.checks.ejected(command.node, command.ski)

    def _returned(self, command: NodeReturned) -> None:
        self.ledger.returns.append((self.now, command.node, command.ski))
        self.checks.returned(command.node, command.ski)


def simulate(setting: Setting, policy: Policy) -> Simulation:
    """Run one."""
    return Simulation(setting, policy).run()
