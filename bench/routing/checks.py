"""What must hold in every run, whatever happens; each breach becomes a sentence. Pure.

Every job ends exactly once, and not later than its deadline plus a tick. No attempt goes to a node that is out, that
does not hold the key as far as the router can know, or beyond the node's window. Hedges and retries keep their budgets,
the queue its bound, and no site waits while others are served by nodes that could serve it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bench.routing.ledger import Ledger
from bench.routing.topology import SiteSpec
from hsm.wire.schemes import KeyFamily
from proxy.base.policy import RoutingPolicy, SigningPolicy
from proxy.signing.facts import NodeFacts

TICK_S = 0.0011
"""The shell's timer has a grain of a millisecond."""
STARVED_S = 2.0
STARVED_SENDS = 100
BURST = 110
"""What budgets may have saved up."""
MOST_ALIKE = 3
"""Breaches of one kind that are told."""
_NO_DIGITS = str.maketrans("", "", "0123456789.")


class Checks:
    """Watches one run; `breaches` is empty at the end of a good one."""

    def __init__(
        self, router: Any, signing: SigningPolicy, routing: RoutingPolicy, sites: list[SiteSpec], ledger: Ledger
    ) -> None:
        self._router, self._signing, self._routing, self._ledger = router, signing, routing, ledger
        self._families: Mapping[bytes, KeyFamily] = {site.ski: site.kind.family for site in sites}
        self._open: set[Any] = set()
        self._facts: dict[str, NodeFacts] = {}
        self._ejected: set[tuple[str, bytes]] = set()
        self._held: dict[tuple[str, bytes], bool] = {}
        self._revision = -1
        self._unsent: Counter[bytes] = Counter()
        self._quiet_since: dict[bytes, float] = {}
        self._sends: Counter[tuple[str, bytes]] = Counter()
        self._told: Counter[str] = Counter()
        self.breaches: list[str] = []

    # jobs

    def submitted(self, routed: Any) -> None:
        """A job is handed to the router."""
        self._open.add(routed)
        self._unsent[routed.ski] += 1

    def ended(self, routed: Any, now: float) -> None:
        """A job is over."""
        if routed not in self._open:
            self._breach(f"{now:.4f}: a job ended twice, or one nobody submitted")
            return
        self._open.remove(routed)
        if not routed.owner.is_sent:
            self._unsent[routed.ski] -= 1
        if now > routed.deadline + TICK_S:
            self._breach(f"{now:.4f}: a job ended {now - routed.deadline:.4f} s after its deadline")

    def sent(self, attempt: Any, now: float, *, is_first: bool) -> None:
        """A node is asked."""
        routed = attempt.routed
        node, ski = attempt.node, routed.ski
        facts = self._facts.get(node)
        if facts is None or not facts.is_usable:
            self._breach(f"{now:.4f}: {node} is asked, and it has no link or does not want to be: {facts}")
        elif (self._ejected or facts.failing) and not self._may_ask(node, ski, now):
            self._breach(f"{now:.4f}: {node} is asked, and it is out, with others to ask: {facts}, {self._ejected}")
        if not self._holds(node, ski, now):
            self._breach(f"{now:.4f}: {node} is asked for a key it does not hold")
        if not now < attempt.deadline <= routed.deadline:
            self._breach(f"{now:.4f}: an attempt's deadline is {attempt.deadline:.4f}, its job's {routed.deadline:.4f}")
        if routed not in self._open:
            self._breach(f"{now:.4f}: {node} is asked for a job that is over")
        load = self._router.load_of(node)
        if load.in_flight > load.limit or attempt.seat.in_flight > load.key_limit:
            under_way = f"{load.in_flight} ({attempt.seat.in_flight} of the key)"
            self._breach(f"{now:.4f}: {under_way} under way at {node}, its window is {load.limit} ({load.key_limit})")
        if is_first:
            self._unsent[ski] -= 1
        self._sends[node, ski] += 1

    # nodes

    def told(self, node: str, facts: NodeFacts) -> None:
        """The router is told facts."""
        self._facts[node] = facts

    def ejected(self, node: str, ski: bytes) -> None:
        """The router says that a node, or one of its keys, is out."""
        self._ejected.add((node, ski))

    def returned(self, node: str, ski: bytes) -> None:
        """The router says that it is back."""
        self._ejected.discard((node, ski))

    def removed(self, node: str) -> None:
        """The node left the config."""
        self._facts.pop(node, None)
        self._ejected = {pair for pair in self._ejected if pair[0] != node}

    # the whole

    def look(self, now: float) -> None:
        """Now and then: bounds and budgets."""
        ledger, routing = self._ledger, self._routing
        waiting = self._router.waiting
        ledger.queue_peak = max(ledger.queue_peak, waiting)
        if waiting > self._signing.max_waiting_jobs:
            self._breach(f"{now:.4f}: {waiting} jobs wait")
        if ledger.hedges > routing.hedge_share * ledger.started + BURST:
            self._breach(f"{now:.4f}: {ledger.hedges} hedges for {ledger.started} jobs")
        if ledger.retries > routing.retry_share * ledger.started + BURST:
            self._breach(f"{now:.4f}: {ledger.retries} retries for {ledger.started} jobs")
        self._look_for_starving(now)

    def _look_for_starving(self, now: float) -> None:
        served: Counter[bytes] = Counter()
        for (_node, ski), count in self._sends.items():
            served[ski] += count
        for ski, waiting in self._unsent.items():
            if not waiting or served[ski]:
                self._quiet_since.pop(ski, None)
                continue
            others = sum(n for (node, other), n in self._sends.items() if other != ski and self._could(node, ski, now))
            if others < STARVED_SENDS:
                self._quiet_since.pop(ski, None)
            elif now - self._quiet_since.setdefault(ski, now) >= STARVED_S:
                self._breach(f"{now:.4f}: a site waits for {STARVED_S} s while others are served")
        self._sends.clear()

    def _is_usable(self, node: str) -> bool:
        facts = self._facts.get(node)
        return facts is not None and facts.is_usable

    def _is_bad(self, node: str, family: KeyFamily) -> bool:
        return (node, b"") in self._ejected or family in self._facts[node].failing

    def _may_ask(self, node: str, ski: bytes, now: float) -> bool:
        """Whether a node may be asked in spite of bad results or probes: too many are out, or all that have the key."""
        family = self._families[ski]
        is_bad = self._is_bad(node, family)
        if not is_bad and (node, ski) not in self._ejected:
            return True
        usable = [name for name in self._facts if self._is_usable(name)]
        bad = [name for name in usable if self._is_bad(name, family)]
        if is_bad and len(bad) > int(len(usable) * self._routing.max_ejected_share):
            return True
        others = [name for name in usable if self._holds(name, ski, now)]
        return all(self._is_bad(name, family) or (name, ski) in self._ejected for name in others)

    def _could(self, node: str, ski: bytes, now: float) -> bool:
        """Whether nothing stands in the way of asking the node with the key."""
        is_fine = self._is_usable(node) and not self._is_bad(node, self._families[ski])
        return is_fine and (node, ski) not in self._ejected and self._holds(node, ski, now)

    def finish(self, now: float) -> None:
        """The run is over: nothing may be left."""
        self.look(now)
        if self._open:
            self._breach(f"{len(self._open)} jobs never ended")
        left = {node: load for node in self._ledger.sends if (load := self._in_flight(node))}
        if left or self._router.waiting or self._router.active:
            self._breach(f"under way at the end: {left}, {self._router.waiting} wait, {self._router.active} active")

    def _in_flight(self, node: str) -> int:
        try:
            return int(self._router.load_of(node).in_flight)
        except KeyError:
            return 0

    def _holds(self, node: str, ski: bytes, now: float) -> bool:
        inventory = self._router.inventory
        if inventory.revision != self._revision:
            self._held.clear()
            self._revision = inventory.revision
        known = self._held.get((node, ski))
        if known is None:
            known = self._held[node, ski] = node in inventory.holders(ski, now)
        return known

    def _breach(self, sentence: str) -> None:
        kind = sentence.translate(_NO_DIGITS)[:30]
        self._told[kind] += 1
        if self._told[kind] <= MOST_ALIKE:
            self.breaches.append(sentence)
