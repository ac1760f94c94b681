"""Which discovered nodes there are: what the sources' answers said so far, and what a new answer changes.

Pure. A node that is listed in the config wins over a discovered one of the same address, and of two sources that name
the same address the one that was first keeps it. An answer that failed changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from hsm.shared.addresses import parse_address
from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource, NodeAddress
from proxy.signing.discovery import Answer, FoundNode, Key, key_of, nodes_in

ABSENCES = 2
"""Answers in a row that must lack a node before it is removed."""
BELIEVED = (LookupOutcome.OK, LookupOutcome.PARTIAL)


class Notice(StrEnum):
    """What people should hear of; the value is the event in the log."""

    FAILED = "discovery_failed"
    WORKS_AGAIN = "discovery_works_again"
    TOO_MANY = "discovery_left_nodes_out"


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer changed. Carry out `removed` first: a node that became another one is in both."""

    outcome: LookupOutcome
    """What the answer was worth: one whose records are all unusable has none."""
    added: tuple[NodeAddress, ...] = ()
    """New nodes, and known ones whose weight is another now."""
    removed: tuple[str, ...] = ()
    """Names."""
    notices: tuple[tuple[Notice, str], ...] = ()
    """Each is there when it becomes true, and not again while it stays so."""


@dataclass(slots=True)
class _Held:
    found: FoundNode
    absences: int = 0


class _SourceState:
    """What one source said so far."""

    def __init__(self, source: DiscoverySource) -> None:
        self.source = source
        self.held: dict[Key, _Held] = {}
        self.outcome = LookupOutcome.OK
        self.left_out = 0

    def learn(self, found: list[FoundNode], answer: Answer) -> int:
        """Take in an answer; return how many of its nodes there was no room for."""
        bound = self.source.max_nodes
        by_choice = sorted(found, key=lambda each: each.key not in self.held)  # stable: known ones first
        taken = by_choice[:bound]
        for each in taken:
            self.held[each.key] = _Held(each)
        present = {each.key for each in taken}
        for key, held in list(self.held.items()):
            if key not in present and held.found.question not in answer.unanswered:
                held.absences += 1
                if held.absences >= ABSENCES:
                    del self.held[key]
        return len(by_choice) - len(taken) + answer.left_out


class Roster:
    """The discovered nodes of all sources."""

    def __init__(self, sources: Sequence[DiscoverySource], listed: Sequence[NodeAddress]) -> None:
        self._states = {source.name: _SourceState(source) for source in sources}
        self._owners: dict[Key, str] = {}
        self._nodes: dict[str, NodeAddress] = {}
        self._listed_names = {node.name for node in listed}
        self._listed_keys: set[Key] = set()
        self._listed_hosts: set[tuple[str, int]] = set()
        for node in listed:
            host, port = parse_address(node.address)
            self._listed_hosts.add((host.removesuffix(".").lower(), port))
            if key := key_of(host, port):
                self._listed_keys.add(key)

    @property
    def nodes(self) -> tuple[NodeAddress, ...]:
        """All discovered nodes, in the order of the sources and of addresses."""
        return tuple(self._nodes.values())

    def known(self, source: str) -> int:
        """How many nodes a source has, also those that another one or the config names too."""
        return len(self._states[source].held)

    def answered(self, source: str, answer: Answer) -> Change:
        """Take in an answer and tell what it changes."""
        state = self._states[source]
        found = nodes_in(state.source, answer.records) if answer.outcome in BELIEVED else []
        outcome = answer.outcome
        if outcome in BELIEVED and not found:
            outcome = LookupOutcome.NO_RECORDS
        notices = list(_outcome_notices(state, outcome, answer))
        if not found:
            return Change(outcome, notices=tuple(notices))
        left_out = state.learn(found, answer)
        if left_out > state.left_out:
            notices.append((Notice.TOO_MANY, f"{left_out} more than max_nodes ({state.source.max_nodes})"))
        state.left_out = left_out
        added, removed = self._settle()
        return Change(outcome, added, removed, tuple(notices))

    def _settle(self) -> tuple[tuple[NodeAddress, ...], tuple[str, ...]]:
        before = self._nodes
        self._nodes = now = self._choose()
        added = tuple(node for name, node in now.items() if before.get(name) != node)
        replaced = {node.name for node in added if (old := before.get(node.name)) and _is_another(old, node)}
        return added, tuple(name for name in before if name not in now or name in replaced)

    def _choose(self) -> dict[str, NodeAddress]:
        """Every address once, by the source that has it already, or else the first that names it."""
        self._owners = {key: name for key, name in self._owners.items() if key in self._states[name].held}
        chosen: dict[str, NodeAddress] = {}
        for name, state in self._states.items():
            for key, held in sorted(state.held.items()):
                node = held.found.node
                is_taken = node.name in chosen or self._is_listed(held.found)
                if not is_taken and self._owners.setdefault(key, name) == name:
                    chosen[node.name] = node
        return chosen

    def _is_listed(self, found: FoundNode) -> bool:
        return (
            found.key in self._listed_keys
            or (found.host, found.key[2]) in self._listed_hosts
            or found.node.name in self._listed_names
        )


def _outcome_notices(state: _SourceState, outcome: LookupOutcome, answer: Answer) -> Iterable[tuple[Notice, str]]:
    before, state.outcome = state.outcome, outcome
    if outcome is before:
        return
    if outcome is LookupOutcome.OK:
        yield Notice.WORKS_AGAIN, ""
    else:
        yield Notice.FAILED, answer.detail or "no usable address"


def _is_another(old: NodeAddress, new: NodeAddress) -> bool:
    """Whether a link to the old one is none to the new one."""
    return (old.address, old.server_name) != (new.address, new.server_name)
