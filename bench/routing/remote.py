"""A node as the proxy meets it: the way there, its links, its probes, and the `Plant` at the end of the way."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from bench.routing import adapter
from bench.routing.plant import Plant, Request
from bench.routing.topology import Act, Incident, NodeSpec, SiteSpec
from bench.routing.watch import Watch
from hsm.backends.simulated.device import Verdict
from hsm.backends.simulated.faults import MAX_DURATION_S, Fault, FaultKind
from hsm.wire.schemes import KeyFamily
from proxy.signing.backoff import ReconnectBackoff

if TYPE_CHECKING:
    from bench.routing.engine import Simulation

UNACKNOWLEDGED_S = 10.0
"""A link through which nothing gets is lost after so long (TCP_USER_TIMEOUT, as in the real shell)."""
SAYS_NOTHING = frozenset({Verdict.BUSY, Verdict.DOWN, Verdict.NO_KEY})


class Remote:
    """One node and the way to it."""

    def __init__(self, sim: Simulation, spec: NodeSpec, rng: Random) -> None:
        self._sim, self.spec, self._rng = sim, spec, rng
        self.name = spec.name
        self._half_s = spec.rtt_s / 2
        self._plant = Plant(spec, Random(rng.random()))
        self._held = [site for site in sim.setting.sites if sim.setting.holds(spec, site)]
        signing = sim.policy.signing
        self._watch = Watch({site.kind.family for site in self._held}, signing.probe_rise, signing.probe_fall)
        self._backoff = ReconnectBackoff(signing.reconnect_min_s, signing.reconnect_max_s, rng)
        self._epoch = 0
        self._wake_at = float("inf")
        self._down_until = 0.0
        self._is_dark = False
        self._dark_since = 0.0
        self._is_draining = False
        self._is_gone = False
        self._hung: set[str] = set()
        self._turn = rng.randrange(1 << 8)
        self._prober = 0

    # requests

    def ask(self, attempt: Any, site: SiteSpec, deadline: float) -> Request:
        """Send a job's request, or a probe's without an attempt."""
        sim = self._sim
        now = sim.now
        request = Request(self, attempt, site, now, deadline, self._epoch)
        sim.at(now + self._half_s, self._reached, request)
        return request

    def cancel(self, request: Request) -> None:
        """Tell the node that nobody waits."""
        self._sim.at(self._sim.now + self._half_s, self._cancel_reached, request)

    def _is_lost(self, request: Request) -> bool:
        return request.epoch != self._epoch or self._is_dark or self._sim.now < self._down_until

    def _reached(self, request: Request) -> None:
        now = self._sim.now
        if self._is_lost(request) or request.site.name in self._hung:
            return
        if self._is_draining and request.attempt is not None:
            self._sim.at(now + self._half_s, self._sim.refused_draining, request)
        elif self._plant.offer(request, now):
            due = self._plant.device.next_event()
            if due is not None and due < self._wake_at:
                self._wake_at = due
                self._sim.at(due, self._wake, due)
        else:
            self._sim.at(now + self._half_s, self._answer, request)

    def _cancel_reached(self, request: Request) -> None:
        if not self._is_lost(request):
            self._plant.cancel(request)

    def _wake(self, at: float) -> None:
        if at == self._wake_at:
            self._live(self._sim.now)

    def _live(self, now: float) -> None:
        """What ended in the device is answered, and the next of its events looked at."""
        sim, plant = self._sim, self._plant
        for done in plant.advance(now):
            request = done.item
            verdict = request.verdict = done.verdict
            request.retry_after_s = done.retry_after_s
            if verdict is Verdict.GOOD and request.attempt is not None:
                sim.ledger.signed[self.name].append(now)
            if request.is_wanted and request.epoch == self._epoch:
                sim.at(now + self._half_s, self._answer, request)
        due = plant.device.next_event()
        self._wake_at = float("inf") if due is None else due
        if due is not None:
            sim.at(due, self._wake, due)

    def _answer(self, request: Request) -> None:
        if self._is_lost(request):
            return
        if request.attempt is not None:
            self._sim.answered(request)
        elif request.is_open:
            request.is_open = False
            self._probe_ended(request, request.verdict)

    # links

    def start(self) -> None:
        """Begin to connect."""
        self._sim.at(self._sim.now, self._connect, self._epoch)

    def _connect(self, epoch: int) -> None:
        now, rtt_s = self._sim.now, self.spec.rtt_s
        if epoch != self._epoch or self._is_gone:
            return
        if self._is_dark:
            self._sim.at(now + self._sim.policy.signing.connect_timeout_s, self._connect_again, epoch)
        elif now < self._down_until:
            self._sim.at(now + rtt_s, self._connect_again, epoch)
        else:
            self._sim.at(now + 3 * rtt_s, self._opened, epoch)

    def _connect_again(self, epoch: int) -> None:
        if epoch == self._epoch:
            self._sim.at(self._sim.now + self._backoff.delay_s(self._sim.now), self._connect, epoch)

    def _opened(self, epoch: int) -> None:
        now = self._sim.now
        if epoch != self._epoch or self._is_gone:
            return
        if self._is_dark or now < self._down_until:
            self._connect_again(epoch)
            return
        self._backoff.opened(now)
        skis = [site.ski for site in self._held] if self.spec.lists_keys else None
        self._sim.carry_out(self._sim.router.on_keys(self.name, skis, now))
        self._watch.link(is_open=True)
        self._watch.is_draining = self._is_draining
        self._tell()
        self._prober += 1
        self._probe(self._prober)

    def _lose(self, _: Any = None) -> None:
        """The link is gone, and the proxy knows."""
        self._epoch += 1
        self._prober += 1
        self._plant.detach()
        if self._is_gone:
            return
        if self._watch.has_link:
            self._watch.link(is_open=False)
            self._tell()
            self._sim.carry_out(self._sim.router.on_link_lost(self.name, self._sim.now))
        self._connect_again(self._epoch)

    def _tell(self) -> None:
        facts = self._watch.facts
        if self._is_gone:
            return
        self._sim.checks.told(self.name, facts)
        self._sim.carry_out(self._sim.router.on_facts(self.name, facts, self._sim.now))

    def signed_wrongly(self) -> None:
        """A signature did not verify: out at once, and probed at once."""
        if not self._watch.is_distrusted:
            self._watch.signed_wrongly()
            self._tell()
            self._prober += 1
            self._probe(self._prober)

    def said_draining(self) -> None:
        """The node takes no new requests, and has said so."""
        if self._watch.has_link and not self._watch.is_draining:
            self._watch.is_draining = True
            self._tell()

    # probes

    def _probe(self, number: int) -> None:
        if number != self._prober or not self._watch.has_link:
            return
        sim, signing = self._sim, self._sim.policy.signing
        self._turn += 1
        for family in sorted({site.kind.family for site in self._held}):
            fitting = [site for site in self._held if site.kind.family is family]
            deadline = sim.now + signing.probe_timeout_s
            request = self.ask(None, fitting[self._turn % len(fitting)], deadline)
            sim.ledger.probes += 1
            sim.at(deadline, self._probe_late, request)
        sim.at(sim.now + signing.probe_interval_s * self._rng.uniform(0.9, 1.1), self._probe, number)

    def _probe_late(self, request: Request) -> None:
        if request.is_open and request.epoch == self._epoch:
            request.is_open = False
            self._plant.cancel(request)
            self._settle(request.site.kind.family, is_good=False)

    def _probe_ended(self, request: Request, verdict: Verdict) -> None:
        sim = self._sim
        if verdict is Verdict.GOOD:
            took_s = sim.now - request.sent
            sim.router.on_proven(self.name, request.site.ski, took_s, sim.now)
            self._settle(request.site.kind.family, is_good=True)
        elif verdict is Verdict.NO_KEY:
            sim.carry_out(sim.router.on_key_missing(self.name, request.site.ski, sim.now))
        elif verdict not in SAYS_NOTHING:
            self._settle(request.site.kind.family, is_good=False)

    def _settle(self, family: KeyFamily, *, is_good: bool) -> None:
        before = self._watch.facts
        self._watch.probed(family, is_good=is_good)
        if self._watch.facts != before:
            self._tell()

    # incidents

    def strike(self, incident: Incident) -> None:
        """It goes wrong now."""
        now, act = self._sim.now, incident.act
        if incident.until is not None and act is not Act.FAULT:
            self._sim.at(incident.until, self._heal, incident)
        if act is Act.FAULT:
            assert incident.fault is not None
            self._plant.device.set_fault(now, incident.fault)
            if incident.until is not None:
                self._sim.at(incident.until, self._heal, incident)
            self._live(now)
        elif act is Act.KILL:
            self._kill(incident.until)
        elif act is Act.RESET:
            self._sim.at(now + self._half_s, self._lose, None)
        elif act is Act.BLACK_HOLE:
            self._is_dark, self._dark_since = True, now
            self._sim.at(now + UNACKNOWLEDGED_S, self._unacknowledged, now)
        elif act is Act.HANG_KEY:
            self._hung.add(incident.key)
        elif act is Act.DRAIN:
            self._is_draining = True
            self.said_draining()
        elif act is Act.REMOVE:
            self._remove()

    def _heal(self, incident: Incident) -> None:
        now, act = self._sim.now, incident.act
        if act is Act.FAULT and incident.fault is not None:
            self._plant.device.clear_faults(now, [incident.fault.name])
            self._live(now)
        elif act is Act.BLACK_HOLE:
            self._is_dark = False
        elif act is Act.HANG_KEY:
            self._hung.discard(incident.key)
        elif act is Act.DRAIN:
            self._is_draining = False
            self._lose()
        elif act is Act.REMOVE:
            self._is_gone = False
            self._epoch += 1
            self._sim.carry_out(self._sim.router.add_node(adapter.address_of(self.spec), now))
            self._connect(self._epoch)

    def _kill(self, until: float | None) -> None:
        now = self._sim.now
        down_s = MAX_DURATION_S if until is None else until - now
        self._down_until = now + down_s
        self._plant.detach()
        self._plant.device.set_fault(now, Fault(kind=FaultKind.CRASH, duration_s=down_s))
        self._live(now)
        self._sim.at(now + self._half_s, self._lose, None)

    def _unacknowledged(self, since: float) -> None:
        if self._is_dark and self._dark_since == since:
            self._lose()

    def _remove(self) -> None:
        now = self._sim.now
        self._epoch += 1
        self._prober += 1
        self._is_gone = True
        self._watch.link(is_open=False)
        self._plant.detach()
        self._sim.checks.removed(self.name)
        self._sim.carry_out(self._sim.router.remove_node(self.name, now))
