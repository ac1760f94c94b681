"""The signer: hands jobs to the router and carries out its commands with links and one timer.

`submit` is the hot path: no task, no future, one object for the job and one for each attempt. Callbacks are called
once, never from inside `submit`, and never after `cancel`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random

from hsm.shared.logs import get_logger
from hsm.shared.tasks import Tasks
from hsm.wire.errors import LinkClosed, LinkFull
from hsm.wire.messages import Expired, Failed, Signed
from hsm.wire.schemes import KeyType
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.observe import NodeState, ProxyObserver
from proxy.base.policy import NodeAddress, NodeAdmin, RoutingPolicy, SigningPolicy
from proxy.signing.answers import reason_of
from proxy.signing.commands import Attempt, CancelAttempt, Command, DelayRetry, Fail, Finish, RoutedJob, SendTo
from proxy.signing.connection import TIMER_STEP_S, Answer
from proxy.signing.headroom import NodeCapacity
from proxy.signing.node import NodeStatus
from proxy.signing.node_set import NodeSet
from proxy.signing.pressure import Pressure
from proxy.signing.prober import ProbeKey
from proxy.signing.router import Router
from proxy.signing.verification import make_verifiers
from proxy.signing.waiting import NEVER

OnDone = Callable[[bytes | SigningError], None]
LINK_FULL_RETRY_S = 0.01


class PendingSignature:
    """A job that was submitted."""

    __slots__ = ("_on_done", "_routed", "_signer")

    def __init__(self, signer: Signer, routed: RoutedJob, on_done: OnDone) -> None:
        self._signer, self._routed = signer, routed
        self._on_done: OnDone | None = on_done

    @property
    def is_done(self) -> bool:
        """Whether it was delivered or cancelled."""
        return self._on_done is None

    def cancel(self) -> None:
        """Nobody wants the signature any more: `on_done` will not be called, and the node is told."""
        if self._on_done is not None:
            self._on_done = None
            self._signer._cancel(self._routed)

    def _take_callback(self) -> OnDone | None:
        on_done, self._on_done = self._on_done, None
        return on_done


class Signer:
    """Gets signatures from nodes for one worker.

    Make it after the fork, in a running loop. `site_keys` are (SKI, kind of key) of the sites' certificates, to
    probe with; `public_keys` maps SKIs to public keys (PEM) with which signatures are verified.
    """

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        policy: SigningPolicy,
        *,
        ssl_context: ssl.SSLContext,
        observer: ProxyObserver,
        routing: RoutingPolicy | None = None,
        site_keys: Sequence[tuple[bytes, KeyType]] = (),
        public_keys: Mapping[bytes, bytes] | None = None,
        site_weights: Mapping[str, float] | None = None,
        rng: Random | None = None,
    ) -> None:
        self._policy, self._observer = policy, observer
        self._loop = asyncio.get_running_loop()
        self._log = get_logger("signing")
        rng = rng or Random()
        verifiers = make_verifiers(public_keys or {})
        self._tasks = Tasks(observer.task_crashed)
        self._router = Router(nodes, policy, routing, rng=rng, kinds=dict(site_keys), site_weights=site_weights)
        self._nodes = NodeSet(
            nodes,
            policy,
            ssl_context=ssl_context,
            router=self._router,
            carry_out=self._carry_out,
            observer=observer,
            probe_keys=[ProbeKey.of(ski, kind, verifiers.get(ski)) for ski, kind in site_keys],
            verifiers=verifiers,
            tasks=self._tasks,
            rng=rng,
        )
        self._site_skis = tuple(ski for ski, _kind in site_keys)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._told_waiting = 0
        self._is_submitting = False
        self._change: asyncio.Future[None] | None = None

    # life

    async def start(self) -> None:
        """Begin to connect to every node; `wait_ready` tells when signatures can be had."""
        self._nodes.start()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until some node is up for every site's key (any node, without site keys). False when it takes longer."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._is_ready():
                    await self._next_change()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Refuse new jobs, fail those that wait (STOPPED), let nodes answer for one attempt's time, then close."""
        self._carry_out(self._router.stop())
        try:
            async with asyncio.timeout(self._policy.attempt_timeout_s):
                while self._router.active:
                    await self._next_change()
        except TimeoutError:
            self._carry_out(self._router.abandon())
        self._nodes.stop()
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.stop()

    # nodes

    def add_node(self, address: NodeAddress) -> None:
        """A node is there; see `NodeSet.add`."""
        self._nodes.add(address)

    def remove_node(self, name: str) -> None:
        """A node is gone; see `NodeSet.remove`."""
        self._nodes.remove(name)

    def set_admin(self, name: str, state: NodeAdmin) -> bool:
        """Let an operator's wish come true; False where there is no such node."""
        return self._nodes.set_admin(name, state)

    # jobs

    def submit(self, job: SignJob, on_done: OnDone) -> PendingSignature:
        """Begin to get a signature; `on_done(signature or SigningError)` follows in a later turn of the loop."""
        now = time.monotonic()
        routed = RoutedJob(job, now, min(job.deadline, now + self._policy.job_timeout_s))
        pending = PendingSignature(self, routed, on_done)
        routed.owner = pending
        self._observer.job_started(job.site, job.scheme.value)
        self._is_submitting = True
        try:
            self._carry_out(self._router.submit(routed, now))
        finally:
            self._is_submitting = False
        return pending

    async def sign(self, job: SignJob) -> bytes:
        """Get a signature. Raises SigningError; cancelling the call cancels the attempt on the wire."""
        future: asyncio.Future[bytes | SigningError] = self._loop.create_future()

        def deliver(result: bytes | SigningError) -> None:
            if not future.done():  # the caller may have been cancelled in this turn of the loop
                future.set_result(result)

        pending = self.submit(job, deliver)
        try:
            result = await future
        finally:
            pending.cancel()
        if isinstance(result, SigningError):
            raise result
        return result

    def has_node_for(self, ski: bytes) -> bool:
        """Whether a node that is up holds the key, or may hold it."""
        return self._router.has_node_for(ski, time.monotonic())

    def status(self) -> list[NodeStatus]:
        """Every node, in the order of the config."""
        return [node.status() for node in self._nodes]

    def capacities(self) -> list[NodeCapacity]:
        """What each node makes for this worker and can make."""
        return self._router.fleet.capacities(time.monotonic())

    def holders(self) -> dict[bytes, tuple[str, ...]]:
        """By site key, the nodes that hold it or may hold it."""
        now = time.monotonic()
        return {ski: self._router.inventory.holders(ski, now) for ski in self._site_skis}

    def pressure(self, site: str = "") -> Pressure:
        """Whether signing capacity is short for a site, or ("") for any."""
        return self._router.pressure(time.monotonic(), site)

    @property
    def waiting(self) -> int:
        """Jobs that wait because no node can take them yet."""
        return self._router.waiting

    @property
    def in_flight(self) -> int:
        """Attempts under way."""
        return self._router.active

    # commands

    def _carry_out(self, commands: list[Command]) -> None:
        """Do what the router decided, in its order."""
        for command in commands:
            if isinstance(command, SendTo):
                self._send(command.attempt)
            elif isinstance(command, Finish):
                self._finish(command)
            elif isinstance(command, Fail):
                self._fail(command.routed, command.error)
            elif isinstance(command, CancelAttempt):
                self._cancel_attempt(command.attempt, is_outrun=command.is_outrun)
            elif isinstance(command, DelayRetry):
                self._observer.retry_delayed()
            else:
                self._nodes.tell(command)
        self._mind_the_time()
        if self._change is not None:
            self._change.set_result(None)
            self._change = None

    def _send(self, attempt: Attempt) -> None:
        if attempt.is_over:  # a callback of an earlier command has cancelled it
            return
        node = self._nodes[attempt.node]
        job = attempt.routed.job
        self._observer.attempt_started(node.name)
        if attempt.is_hedge:
            self._observer.hedge_started(node.name)
        link = node.link_for_job()
        try:
            if link is None:
                raise LinkFull("every link is full")
            attempt.request_id = link.sign(
                job.ski,
                job.scheme,
                job.payload,
                attempt.deadline,
                self._on_answer,
                attempt,
                server_name=job.server_name,
                client_ip=job.client_ip,
                message=job.message,
            )
            attempt.wire = link
        except (LinkFull, LinkClosed) as error:
            busy = SigningError(SigningReason.BUSY, str(error), node=node.name)
            self._observer.attempt_finished(node.name, busy.reason, 0.0)
            now = time.monotonic()
            self._carry_out(self._router.on_error(attempt, busy, now, retry_after_s=LINK_FULL_RETRY_S))

    def _on_answer(self, attempt: Attempt, answer: Answer) -> None:
        if attempt.wire is None:
            return
        attempt.wire = None
        now = time.monotonic()
        node = self._nodes[attempt.node]
        if not isinstance(answer, Signed):
            self._attempt_failed(attempt, answer, _error_of(answer, node.name), now)
        elif flaw := node.flaw_in(attempt.routed.job, answer.signature):
            # Out of rotation first, so that what waits is not sent there again.
            node.signed_wrongly(attempt.routed.ski, flaw)
            error = SigningError(SigningReason.WRONG_SIGNATURE, flaw, node=node.name)
            self._attempt_failed(attempt, answer, error, now)
        else:
            self._observer.attempt_finished(node.name, None, now - attempt.started)
            node.signatures += 1
            self._carry_out(self._router.on_signed(attempt, answer.signature, now))

    def _attempt_failed(self, attempt: Attempt, answer: Answer, error: SigningError, now: float) -> None:
        node = self._nodes[attempt.node]
        node.failures += 1
        node.last_error = str(error)
        self._observer.attempt_finished(node.name, error.reason, now - attempt.started)
        if isinstance(answer, Expired):
            self._carry_out(self._router.on_attempt_timeout(attempt, now))
        elif isinstance(answer, Failed):
            if error.reason is SigningReason.DRAINING:
                node.said_draining()
            is_final = not answer.code.other_node_may_sign
            self._carry_out(
                self._router.on_error(attempt, error, now, retry_after_s=answer.retry_after_s, is_final=is_final)
            )
        else:
            self._carry_out(self._router.on_error(attempt, error, now))

    def _cancel_attempt(self, attempt: Attempt, *, is_outrun: bool) -> None:
        link = attempt.wire
        if link is not None:
            attempt.wire = None
            link.cancel(attempt.request_id)
            duration_s = time.monotonic() - attempt.started
            reason = SigningReason.OUTRUN if is_outrun else SigningReason.CANCELLED
            self._observer.attempt_finished(attempt.node, reason, duration_s)

    def _cancel(self, routed: RoutedJob) -> None:
        now = time.monotonic()
        job = routed.job
        self._observer.job_failed(job.site, job.scheme.value, SigningReason.CANCELLED, now - routed.started)
        self._carry_out(self._router.cancel(routed, now))

    def _finish(self, command: Finish) -> None:
        routed = command.routed
        on_done = routed.owner._take_callback()
        if on_done is not None:
            job = routed.job
            duration_s = time.monotonic() - routed.started
            self._observer.job_finished(job.site, job.scheme.value, command.node, duration_s)
            if command.is_hedge:
                self._observer.hedge_won(command.node)
            self._call(on_done, command.signature)

    def _fail(self, routed: RoutedJob, error: SigningError) -> None:
        if self._is_submitting:
            self._loop.call_soon(self._fail, routed, error)
            return
        on_done = routed.owner._take_callback()
        if on_done is not None:
            job = routed.job
            duration_s = time.monotonic() - routed.started
            self._observer.job_failed(job.site, job.scheme.value, error.reason, duration_s)
            self._call(on_done, error)

    def _call(self, on_done: OnDone, result: bytes | SigningError) -> None:
        try:
            on_done(result)
        except Exception:
            # One handshake's mistake must not take the answers of others with it.
            self._log.exception("callback_failed")
            self._observer.task_crashed("signing callback")

    # time

    def _mind_the_time(self) -> None:
        waiting = self._router.waiting
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self._observer.queue_changed(waiting)
        at = self._router.next_time(time.monotonic())
        if at < self._timer_at:
            self._arm(at)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(max(at, time.monotonic() + TIMER_STEP_S), self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, NEVER
        self._carry_out(self._router.on_time(time.monotonic()))

    def _is_ready(self) -> bool:
        if self._site_skis:
            return all(self.has_node_for(ski) for ski in self._site_skis)
        return any(node.state is NodeState.UP for node in self._nodes)

    async def _next_change(self) -> None:
        if self._change is None:
            self._change = self._loop.create_future()
        await asyncio.shield(self._change)


def _error_of(answer: Answer, node: str) -> SigningError:
    if isinstance(answer, Failed):
        return SigningError(reason_of(answer.code), answer.detail or answer.code.name.lower(), node=node)
    if isinstance(answer, Expired):
        return SigningError(SigningReason.TIMEOUT, "no answer in time", node=node)
    return SigningError(SigningReason.LINK_LOST, "the link was lost", node=node)
