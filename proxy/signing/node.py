"""One node as this worker sees it: its links, its health, its probes. Joins them to the router.

Facts come in from the links, the prober and the operator; the router hears what follows from them whenever it changes,
and its commands are carried out by the signer. A node that the operator disables, or that is taken off the list, gives
its attempts under way time to end before its links are closed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from hsm.shared.logs import get_logger
from hsm.shared.tasks import Tasks
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyFamily
from proxy.base.errors import SigningReason
from proxy.base.jobs import SignJob
from proxy.base.observe import NodeState, ProxyObserver
from proxy.base.policy import NodeAddress, NodeAdmin, SigningPolicy
from proxy.signing.answers import is_plausible
from proxy.signing.backoff import ReconnectBackoff
from proxy.signing.commands import Command
from proxy.signing.health import NodeHealth
from proxy.signing.node_link import NodeLink
from proxy.signing.node_router import NodeRouter
from proxy.signing.prober import DOES_NOT_VERIFY, IMPLAUSIBLE, PROBE_LABEL, ProbeKey, Prober, ProbeResult, by_family
from proxy.signing.verification import KeyVerifier, NodeTrust

_SAYS_NOTHING = frozenset({SigningReason.BUSY, SigningReason.KEY_NOT_FOUND, SigningReason.DRAINING})
"""Ends of a probe that are no sign of bad health."""
IDLE_CHECK_S = 0.02
"""How often a node that is to be closed is asked whether its attempts are over."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node for the status page."""

    name: str
    address: str
    state: NodeState
    links_up: int
    in_flight: int
    """Attempts of this worker under way there."""
    keys: int | None
    """Keys it listed, None where it can't list them or has not been asked yet."""
    signatures: int
    """Good signatures for jobs since the start."""
    failures: int
    """Attempts that failed since the start."""
    last_probe_s: float | None
    """How long the last good probe took."""
    last_error: str
    zone: str = ""
    weight: float = 1.0
    admin: NodeAdmin = "enabled"
    """What the operator wants of it."""
    failing: tuple[KeyFamily, ...] = ()
    """Families of keys whose probes fail."""


class SigningNode:
    """A node and everything this worker keeps for it."""

    def __init__(
        self,
        address: NodeAddress,
        policy: SigningPolicy,
        *,
        ssl_context: ssl.SSLContext,
        router: NodeRouter,
        carry_out: Callable[[list[Command]], None],
        observer: ProxyObserver,
        probe_keys: Sequence[ProbeKey],
        verifiers: Mapping[bytes, KeyVerifier],
        tasks: Tasks,
        rng: Random,
    ) -> None:
        self.name = address.name
        self._address, self._router, self._carry_out, self._observer = address, router, carry_out, observer
        self._policy, self._tasks = policy, tasks
        self._site_keys = probe_keys
        self._own_keys: tuple[ProbeKey, ...] = ()
        self._plan: dict[KeyFamily, tuple[ProbeKey, ...]] = {}
        self._planned_for: tuple[object, ...] = ()
        self._held: frozenset[bytes] = frozenset()
        self._verifiers, self._trust = verifiers, NodeTrust(policy.verify_signatures, rng)
        self._health = NodeHealth(rise=policy.probe_rise, fall=policy.probe_fall, admin=address.state)
        self._told_facts, self._told_state = self._health.facts, self._health.state
        self._is_paused = False
        self._closing: asyncio.Task[None] | None = None
        self._link_turn = 0
        self._log = get_logger("signing")
        self._links = [
            NodeLink(
                address,
                policy,
                ssl_context,
                self,
                tasks=tasks,
                backoff=ReconnectBackoff(policy.reconnect_min_s, policy.reconnect_max_s, rng),
            )
            for _ in range(policy.links_per_node)
        ]
        self._prober = Prober(
            policy,
            choose_keys=self._keys_to_probe,
            choose_link=self._link_to_probe,
            is_urgent=lambda: not self._health.facts.is_usable,
            report=self._probed,
            rng=rng,
        )
        self.weight = address.weight
        """May be set when discovery hears of another."""
        self.signatures = 0
        self.failures = 0
        self._last_probe_s: float | None = None
        self.last_error = ""

    @property
    def state(self) -> NodeState:
        """How the node stands."""
        return self._health.state

    def is_reached_by(self, address: NodeAddress) -> bool:
        """Whether `address` leads to this very node, under the same name in its certificate."""
        mine = self._address
        return (mine.address, mine.server_name) == (address.address, address.server_name)

    def start(self) -> None:
        """Begin to connect, unless the operator wants no link."""
        self._observer.node_changed(self.name, self._health.state)
        if self._health.admin != "disabled":
            self._open()

    def stop(self, why: str = "the proxy is stopping") -> None:
        """Close the links now."""
        self._keep_open()
        self._prober.stop()
        for link in self._links:
            link.stop(why)

    def set_admin(self, admin: NodeAdmin, why: str = "") -> None:
        """What the operator wants from now on.

        "draining": no new jobs, links and probes stay. "disabled": no new jobs and no probes; the links are closed when
        the attempts under way are over, or have had `attempt_timeout_s`.
        """
        was_disabled = self._health.admin == "disabled"
        if admin == self._health.admin:
            return
        self._settle(self._health.admin_set(admin), why or f"{admin} by the operator")
        if was_disabled:
            self._open()
        elif admin == "disabled":
            self._closing = self._tasks.start(self._close_when_idle(), name=f"close node {self.name}")

    async def drain_and_stop(self, why: str = "it is no longer on the list of nodes") -> None:
        """Give the node no new jobs, wait `attempt_timeout_s` at most for those it has, then close the links.

        The router must know the node until this returns; afterwards it hears nothing of it any more.
        """
        self._keep_open()
        self._settle(self._health.admin_set("disabled"), why)
        await self._close_when_idle()

    def told_ejected(self, is_ejected: bool, why: str) -> None:
        """The router took the node out of rotation for its results, or back."""
        self._settle(self._health.ejected_told(is_ejected=is_ejected), why)

    def link_for_job(self) -> NodeLink | None:
        """The link with the fewest requests under way that has room, or None."""
        links = self._links
        if len(links) == 1:
            return links[0] if links[0].can_take else None
        return min((link for link in links if link.can_take), key=lambda link: link.in_flight, default=None)

    def status(self) -> NodeStatus:
        """The node now."""
        keys = self._router.inventory.keys_of(self.name)
        return NodeStatus(
            name=self.name,
            address=self._address.address,
            state=self._health.state,
            links_up=self._health.links_up,
            in_flight=self._router.load_of(self.name).in_flight,
            keys=None if keys is None else len(keys),
            signatures=self.signatures,
            failures=self.failures,
            last_probe_s=self._last_probe_s,
            last_error=self.last_error,
            zone=self._address.zone,
            weight=self.weight,
            admin=self._health.admin,
            failing=tuple(sorted(self._health.facts.failing)),
        )

    def flaw_in(self, job: SignJob, signature: bytes) -> str:
        """What is wrong with a signature for a job, "" if nothing: its form and, where the policy wants it, its key."""
        if not is_plausible(job.scheme, signature):
            return IMPLAUSIBLE
        verifier = self._verifiers.get(job.ski)
        if verifier is None or not self._trust.must_verify(job.ski, job.scheme):
            return ""
        if not verifier.is_good(job.scheme, job.message, signature):
            return DOES_NOT_VERIFY
        self._trust.was_good(job.ski)
        return ""

    def signed_wrongly(self, ski: bytes, why: str) -> None:
        """A signature with this key was wrong: out of rotation, until probes with the key are good again."""
        was_trusted = not self._health.wrong_keys
        self._trust.forget()
        self._settle(self._health.signed_wrongly(ski), why)
        if was_trusted:
            self._log.warning("wrong_signature", node=self.name, key=ski.hex(), why=why)
            self._probe_now()

    def said_draining(self) -> None:
        """An answer said that the node takes no new requests."""
        self._settle(self._health.drain_announced(), "draining")

    # LinkOwner

    def link_opened(self, link: NodeLink, keys: tuple[KeyEntry, ...] | None) -> None:
        """See LinkOwner."""
        self._learn_keys(keys)
        self._settle(self._health.link_opened(), "link open")
        self._tell_paused(is_certain=self._health.links_up > 1)
        if self._health.links_up == 1:
            self._probe_now()

    def link_keys(self, link: NodeLink, keys: tuple[KeyEntry, ...]) -> None:
        """See LinkOwner."""
        self._learn_keys(keys)

    def link_lost(self, link: NodeLink, why: str) -> None:
        """See LinkOwner."""
        self.last_error = why
        is_changed = self._health.link_lost()
        if self._health.links_up == 0:
            self._prober.stop()
        self._settle(is_changed, why)
        if self._health.links_up == 0:
            self._carry_out(self._router.on_link_lost(self.name, time.monotonic()))
        else:
            self._tell_paused()

    def link_failed(self, link: NodeLink, why: str) -> None:
        """See LinkOwner."""
        self.last_error = why
        self._settle(self._health.connect_failed(), why)

    def link_draining(self, link: NodeLink) -> None:
        """See LinkOwner."""
        self.said_draining()

    def link_writable(self, link: NodeLink) -> None:
        """See LinkOwner."""
        self._tell_paused()

    # probes

    def _probe_now(self) -> None:
        if self._health.links_up and self._health.admin != "disabled":
            self._prober.start()

    def _keys_to_probe(self) -> Mapping[KeyFamily, Sequence[ProbeKey]]:
        """By family; kept until keys come or go, or a wrong signature is made or made good."""
        now = time.monotonic()
        inventory, wrong = self._router.inventory, self._health.wrong_keys
        inventory.forget_due(now)
        mark = (inventory.revision, self._own_keys, wrong)
        if mark != self._planned_for:
            held = [key for key in self._site_keys if self.name in inventory.holders(key.ski, now)] or self._own_keys
            self._held = frozenset(key.ski for key in held)
            self._planned_for, self._plan = mark, by_family(held, wrong)
            self._settle(self._health.probing(self._plan), "other keys are probed")
        return self._plan

    def _link_to_probe(self) -> NodeLink | None:
        """Links in turn, so that a dead one is found."""
        usable = [link for link in self._links if link.is_usable]
        self._link_turn += 1
        return usable[self._link_turn % len(usable)] if usable else None

    def _probed(self, result: ProbeResult) -> None:
        self._observer.probe_finished(self.name, result.reason, result.duration_s)
        if result.reason is None:
            self._last_probe_s = result.duration_s
            now = time.monotonic()
            self._carry_out(self._router.on_proven(self.name, result.ski, result.duration_s, now) or [])
            self._count_probe(result, "probe signed")
            return
        self.last_error = f"{result.reason.value}: {result.detail}".rstrip(": ")
        if result.reason is SigningReason.KEY_NOT_FOUND:
            self._carry_out(self._router.on_key_missing(self.name, result.ski, time.monotonic()) or [])
        elif result.reason is SigningReason.DRAINING:
            self.said_draining()
        elif result.reason is not SigningReason.BUSY:
            self._count_probe(result, self.last_error)
        if result.reason is SigningReason.WRONG_SIGNATURE:
            self.signed_wrongly(result.ski, self.last_error)

    def _count_probe(self, result: ProbeResult, why: str) -> None:
        is_good = result.reason is None
        self._settle(self._health.probed(result.family, is_good=is_good, redeems=self._redeemed_by(result.ski)), why)

    def _redeemed_by(self, ski: bytes) -> frozenset[bytes]:
        """Which wrong signatures a probe with this key can make good: its own, and those of keys that it lacks now."""
        return self._health.wrong_keys - (self._held - {ski})

    # to the router

    def _learn_keys(self, keys: tuple[KeyEntry, ...] | None) -> None:
        listed = keys or ()
        self._own_keys = tuple(
            ProbeKey.of(entry.ski, entry.type) for entry in listed if entry.label.startswith(PROBE_LABEL)
        )
        skis = None if keys is None else [entry.ski for entry in keys]
        self._carry_out(self._router.on_keys(self.name, skis, time.monotonic()))

    def _tell_paused(self, *, is_certain: bool = True) -> None:
        is_paused = not any(link.is_writable for link in self._links)
        if is_paused is not self._is_paused or not is_certain:
            self._is_paused = is_paused
            self._carry_out(self._router.on_paused(self.name, time.monotonic(), is_paused=is_paused))

    def _settle(self, is_changed: bool, why: str) -> None:
        """Tell of what has changed: the log, the observer, and the router, whose commands are carried out."""
        if not is_changed:
            return
        facts, state = self._health.facts, self._health.state
        before, self._told_facts = self._told_facts, facts
        if state is not self._told_state or facts.failing != before.failing:
            is_worse = state is NodeState.DOWN or bool(facts.failing - before.failing)
            tell = self._log.warning if is_worse else self._log.info
            tell("node_changed", node=self.name, state=state.value, failing=sorted(facts.failing), why=why)
        if state is not self._told_state:
            self._told_state = state
            self._observer.node_changed(self.name, state)
        if facts.is_usable and not before.is_usable:
            self._trust.forget()
        if facts != before:
            self._carry_out(self._router.on_facts(self.name, facts, time.monotonic()))

    # opening and closing

    def _open(self) -> None:
        """Keep or get links, and probe."""
        self._keep_open()
        for link in self._links:
            link.start()
        self._probe_now()

    def _keep_open(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = None

    async def _close_when_idle(self) -> None:
        self._prober.stop()
        until = time.monotonic() + self._policy.attempt_timeout_s
        while any(link.in_flight for link in self._links):
            if time.monotonic() >= until:
                break
            await asyncio.sleep(IDLE_CHECK_S)
        self._closing = None
        for link in self._links:
            link.stop("no link to the node is wanted")
