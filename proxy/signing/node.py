"""One node as this worker sees it: its links, its health, its probes. Joins them to the router.

Facts come in from the links and the prober; the router hears what follows from them, and its commands are carried out
by the signer.
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
from proxy.base.errors import SigningReason
from proxy.base.jobs import SignJob
from proxy.base.observe import NodeState, ProxyObserver
from proxy.base.policy import NodeAddress, SigningPolicy
from proxy.signing.answers import is_plausible
from proxy.signing.backoff import ReconnectBackoff
from proxy.signing.commands import Command
from proxy.signing.health import NodeHealth
from proxy.signing.node_link import NodeLink
from proxy.signing.prober import DOES_NOT_VERIFY, IMPLAUSIBLE, PROBE_LABEL, ProbeKey, Prober, ProbeResult
from proxy.signing.router import Router
from proxy.signing.verification import KeyVerifier, NodeTrust

_SAYS_NOTHING = frozenset({SigningReason.BUSY, SigningReason.KEY_NOT_FOUND, SigningReason.DRAINING})
"""Ends of a probe that are no sign of bad health."""


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


class SigningNode:
    """A node and everything this worker keeps for it."""

    def __init__(
        self,
        address: NodeAddress,
        policy: SigningPolicy,
        *,
        ssl_context: ssl.SSLContext,
        router: Router,
        carry_out: Callable[[list[Command]], None],
        observer: ProxyObserver,
        probe_keys: Sequence[ProbeKey],
        verifiers: Mapping[bytes, KeyVerifier],
        tasks: Tasks,
        rng: Random,
    ) -> None:
        self.name = address.name
        self._address, self._router, self._carry_out, self._observer = address, router, carry_out, observer
        self._probe_keys = probe_keys
        self._own_probe_keys: tuple[ProbeKey, ...] = ()
        self._verifiers, self._trust = verifiers, NodeTrust(policy.verify_signatures, rng)
        self._wrong: set[bytes] = set()
        """Keys with which it signed wrongly and has not redeemed itself."""
        self._health = NodeHealth(rise=policy.probe_rise, fall=policy.probe_fall)
        self._loop = asyncio.get_running_loop()
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
            report=self._probed,
            rng=rng,
        )
        self.signatures = 0
        self.failures = 0
        self._last_probe_s: float | None = None
        self.last_error = ""

    @property
    def state(self) -> NodeState:
        """How the node stands."""
        return self._health.state

    def start(self) -> None:
        """Begin to connect."""
        self._observer.node_changed(self.name, self._health.state)
        for link in self._links:
            link.start()

    def stop(self) -> None:
        """Close the links."""
        self._prober.stop()
        for link in self._links:
            link.stop()

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
        was_distrusted = self._health.is_distrusted
        self._trust.forget()
        self._wrong.add(ski)
        self._settle(self._health.signed_wrongly(), why)
        if not was_distrusted:
            self._log.warning("wrong_signature", node=self.name, key=ski.hex(), why=why)
            if self._health.links_up:
                self._prober.start()

    def said_draining(self) -> None:
        """An answer said that the node takes no new requests."""
        self._settle(self._health.drain_announced(), "draining")

    # LinkOwner

    def link_opened(self, link: NodeLink, keys: tuple[KeyEntry, ...] | None) -> None:
        """See LinkOwner."""
        self._learn_keys(keys)
        self._settle(self._health.link_opened(), "link open")
        self._tell_paused()
        if self._health.links_up == 1:
            self._prober.start()

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

    def _keys_to_probe(self) -> Sequence[ProbeKey]:
        now = time.monotonic()
        inventory = self._router.inventory
        held = [key for key in self._probe_keys if self.name in inventory.holders(key.ski, now)]
        return [key for key in held if key.ski in self._wrong] or held or self._own_probe_keys

    def _link_to_probe(self) -> NodeLink | None:
        usable = [link for link in self._links if link.is_usable]
        return min(usable, key=lambda link: link.in_flight, default=None)

    def _probed(self, result: ProbeResult) -> None:
        self._observer.probe_finished(self.name, result.reason, result.duration_s)
        if result.reason is None:
            self._last_probe_s = result.duration_s
            self._router.on_proven(self.name)
            self._settle(self._health.probed(is_good=True), "probe signed")
            return
        self.last_error = f"{result.reason.value}: {result.detail}".rstrip(": ")
        if result.reason is SigningReason.KEY_NOT_FOUND:
            self._router.on_key_missing(self.name, result.ski, time.monotonic())
        elif result.reason is SigningReason.DRAINING:
            self.said_draining()
        if result.reason is SigningReason.WRONG_SIGNATURE:
            self.signed_wrongly(result.ski, self.last_error)
        elif result.reason not in _SAYS_NOTHING:
            self._settle(self._health.probed(is_good=False), self.last_error)

    # to the router

    def _learn_keys(self, keys: tuple[KeyEntry, ...] | None) -> None:
        listed = keys or ()
        self._own_probe_keys = tuple(
            ProbeKey.of(entry.ski, entry.type) for entry in listed if entry.label.startswith(PROBE_LABEL)
        )
        skis = None if keys is None else [entry.ski for entry in keys]
        self._carry_out(self._router.on_keys(self.name, skis, time.monotonic()))

    def _tell_paused(self) -> None:
        is_paused = not any(link.is_writable for link in self._links)
        if is_paused is not self._router.load_of(self.name).is_paused:
            self._carry_out(self._router.on_paused(self.name, time.monotonic(), is_paused=is_paused))

    def _settle(self, is_changed: bool, why: str) -> None:
        if not is_changed:
            return
        state = self._health.state
        self._log.info("node_changed", node=self.name, state=state.value, why=why)
        self._observer.node_changed(self.name, state)
        is_up = state is NodeState.UP
        if is_up:
            self._trust.forget()
            self._wrong.clear()
        if is_up is not self._router.load_of(self.name).is_up:
            self._carry_out(self._router.on_node_changed(self.name, time.monotonic(), is_up=is_up))
