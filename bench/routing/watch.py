"""What the proxy finds out about one node by its links and probes: a small model of the real shell. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hsm.wire.schemes import KeyFamily
from proxy.signing.facts import NodeFacts

RISE_AFTER_WRONG = 3


class _Verdict:
    __slots__ = ("is_good", "last", "streak")

    def __init__(self) -> None:
        self.is_good: bool | None = None
        self.last: bool | None = None
        self.streak = 0


class Watch:
    """Link, probes per family, draining, trust."""

    def __init__(self, families: Iterable[KeyFamily], rise: int, fall: int) -> None:
        self._rise, self._fall = rise, fall
        self._families = {family: _Verdict() for family in families}
        self.has_link = False
        self.is_draining = False
        self.is_distrusted = False

    def link(self, *, is_open: bool) -> None:
        """A link was opened or lost: the node has to prove itself anew."""
        self.has_link = is_open
        self.is_draining = False
        for family in self._families:
            self._families[family] = _Verdict()

    def probed(self, family: KeyFamily, *, is_good: bool) -> None:
        """A probe ended."""
        verdict = self._families[family]
        verdict.streak = verdict.streak + 1 if verdict.last is is_good else 1
        verdict.last = is_good
        rise = max(self._rise, RISE_AFTER_WRONG) if self.is_distrusted else self._rise
        if verdict.streak >= (rise if is_good else self._fall):
            verdict.is_good = is_good
            if is_good:
                self.is_distrusted = False

    def signed_wrongly(self) -> None:
        """A signature was wrong: nothing is believed any more."""
        self.is_distrusted = True
        for family in self._families:
            self._families[family] = _Verdict()

    @property
    def facts(self) -> NodeFacts:
        """As the router is told."""
        is_proven = any(verdict.is_good for verdict in self._families.values())
        is_usable = self.has_link and is_proven and not (self.is_draining or self.is_distrusted)
        failing = frozenset(family for family, verdict in self._families.items() if verdict.is_good is False)
        return NodeFacts(is_usable, failing)
