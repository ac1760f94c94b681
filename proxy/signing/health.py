"""Health of one node as a table of facts. Pure.

Three facts are kept apart: is a link open, what do the probes of each family of keys say, and what does the operator
want. Beside them stand what the node says of itself (draining), a wrong signature, and the router's word that its
results are bad. Consecutive probes flip a family: an engine for RSA may hang while the one for curves signs. A node
whose first link has just opened is not usable before `rise` good probes of one family.

A wrong signature, of a probe or of a job, takes the whole node out at once and for longer: until RISE_AFTER_WRONG good
probes in a row with the key that it signed wrongly with, whatever links come and go. A node that does not answer costs
time; one that signs wrongly breaks handshakes, and a faulty token gives keys away.

    the operator wants no link                        DISABLED
    no link, or not proven since it opened            CONNECTING, or DOWN once anything was lost, refused or bad
    link, node or operator say that it drains         DRAINING
    link, a wrong signature is not made good          DOWN
    proven, every family that is probed fails         DOWN, and usable: the router may have nothing better
    proven, the router says that results are bad      EJECTED
    proven                                            UP
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hsm.wire.schemes import KeyFamily
from proxy.base.observe import NodeState
from proxy.base.policy import NodeAdmin
from proxy.signing.facts import NodeFacts

RISE_AFTER_WRONG = 3
"""Good probes in a row with the key, after which a wrong signature is made good."""
EVERY_FAMILY = frozenset(KeyFamily)


class _Streak:
    """Probes of one family: consecutive ones flip the verdict, None before the first."""

    __slots__ = ("_count", "_last", "verdict")

    def __init__(self) -> None:
        self._last: bool | None = None
        self._count = 0
        self.verdict: bool | None = None

    def add(self, *, is_good: bool, needed: int) -> None:
        self._count = self._count + 1 if is_good is self._last else 1
        self._last = is_good
        if self._count >= needed:
            self.verdict = is_good


class NodeHealth:
    """What is known of one node; every method returns whether `facts` or `state` changed by it."""

    __slots__ = (
        "_fall",
        "_has_failed",
        "_is_ejected",
        "_is_proven",
        "_rise",
        "_streaks",
        "_wrong",
        "admin",
        "facts",
        "is_draining",
        "links_up",
        "state",
    )

    def __init__(self, *, rise: int, fall: int, admin: NodeAdmin = "enabled") -> None:
        self._rise, self._fall = rise, fall
        self._has_failed = False
        """A link was refused or lost since the node was wanted."""
        self._is_ejected = False
        self._is_proven = False
        self._streaks: dict[KeyFamily | None, _Streak] = {}
        """None is the echo, which speaks for every family."""
        self._wrong: dict[bytes, int] = {}
        """Good probes in a row with each key that it signed wrongly with."""
        self.admin: NodeAdmin = admin
        self.is_draining = False
        """It said so itself."""
        self.links_up = 0
        self.facts = NodeFacts()
        self.state = NodeState.CONNECTING
        self._settle()

    @property
    def wrong_keys(self) -> frozenset[bytes]:
        """Keys (SKIs) that it signed wrongly with and that are not made good; a new link does not change that."""
        return frozenset(self._wrong)

    # links

    def link_opened(self) -> bool:
        """A link is open and usable."""
        self.links_up += 1
        if self.links_up == 1:
            self._prove_again()
        return self._settle()

    def link_lost(self) -> bool:
        """An open link is gone; with the last one the node is down and has to prove itself again."""
        self.links_up -= 1
        if self.links_up == 0:
            self._has_failed = True
            self._prove_again()
        return self._settle()

    def connect_failed(self) -> bool:
        """A link could not be opened."""
        self._has_failed = self._has_failed or self.links_up == 0
        return self._settle()

    def drain_announced(self) -> bool:
        """The node takes no new requests, as long as this link (or another) is open."""
        self.is_draining = self.links_up > 0
        return self._settle()

    # probes

    def probing(self, families: Collection[KeyFamily]) -> bool:
        """From now on these families are probed, or, if there are none, by echo: what others said before is void."""
        wanted: Collection[KeyFamily | None] = families or (None,)
        self._streaks = {family: streak for family, streak in self._streaks.items() if family in wanted}
        return self._settle()

    def probed(self, family: KeyFamily | None, *, is_good: bool, redeems: Iterable[bytes] = ()) -> bool:
        """Record a probe's result: `rise` good ones in a row of a family bring it in, `fall` bad ones take it out.

        `family` is None for an echo, which speaks for all. `redeems` are the keys of a wrong signature that the probe
        tells something about.
        """
        if self.links_up == 0:
            return False
        streak = self._streaks.setdefault(family, _Streak())
        streak.add(is_good=is_good, needed=self._rise if is_good else self._fall)
        self._is_proven = self._is_proven or streak.verdict is True
        for ski in self._wrong.keys() & set(redeems):
            self._redeem(ski, is_good)
        return self._settle()

    def signed_wrongly(self, ski: bytes) -> bool:
        """A signature with this key was wrong: out at once, whatever came before."""
        self._wrong[ski] = 0
        return self._settle()

    # what others decide

    def admin_set(self, admin: NodeAdmin) -> bool:
        """What the operator wants from now on."""
        if self.admin == "disabled":
            self._has_failed = False
        self.admin = admin
        return self._settle()

    def ejected_told(self, *, is_ejected: bool) -> bool:
        """The router took the node out of rotation for its results, or back."""
        self._is_ejected = is_ejected
        return self._settle()

    # what follows

    def _redeem(self, ski: bytes, is_good: bool) -> None:
        self._wrong[ski] = self._wrong[ski] + 1 if is_good else 0
        if self._wrong[ski] >= max(self._rise, RISE_AFTER_WRONG):
            del self._wrong[ski]

    def _prove_again(self) -> None:
        self._streaks.clear()
        self._wrong = dict.fromkeys(self._wrong, 0)
        self._is_proven = self.is_draining = False

    def _settle(self) -> bool:
        before = self.facts, self.state
        is_usable = self._is_proven and not self._wrong and not self.is_draining and self.admin == "enabled"
        self.facts = NodeFacts(is_usable, self._failing())
        self.state = self._judge()
        return before != (self.facts, self.state)

    def _failing(self) -> frozenset[KeyFamily]:
        bad = [family for family, streak in self._streaks.items() if streak.verdict is False]
        return EVERY_FAMILY if None in bad else frozenset(family for family in bad if family is not None)

    def _judge(self) -> NodeState:
        if self.admin == "disabled":
            return NodeState.DISABLED
        if self.links_up == 0:
            return self._unproven()
        if self.is_draining or self.admin == "draining":
            return NodeState.DRAINING
        if self._wrong:
            return NodeState.DOWN
        verdicts = {streak.verdict for streak in self._streaks.values()} - {None}
        if verdicts == {False}:
            return NodeState.DOWN
        if not self._is_proven:
            return self._unproven()
        return NodeState.EJECTED if self._is_ejected else NodeState.UP

    def _unproven(self) -> NodeState:
        return NodeState.DOWN if self._has_failed else NodeState.CONNECTING
