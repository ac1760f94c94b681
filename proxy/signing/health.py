"""Health of one node as a table of facts. Pure.

Three facts make the state: is a link open, what do the probes say, is the node draining. Consecutive probes flip the
second; a node whose first link has just opened is not trusted before `rise` good ones. A wrong signature, of a probe
or of a job, takes a node out at once and for longer: it comes back after RISE_AFTER_WRONG good probes in a row. A node
that does not answer costs time; one that signs wrongly breaks handshakes, and a faulty token gives keys away.

    no link, none was tried yet        CONNECTING
    no link, lost or refused           DOWN
    link, probes say nothing yet       CONNECTING
    link, probes are bad               DOWN
    link, probes are good              UP
    link, node said that it drains     DRAINING
"""

from __future__ import annotations

from proxy.base.observe import NodeState

RISE_AFTER_WRONG = 3
"""Good probes in a row after which a node that signed wrongly is in rotation again."""
_BY_VERDICT = {None: NodeState.CONNECTING, True: NodeState.UP, False: NodeState.DOWN}


class NodeHealth:
    """What is known of one node; every method returns whether `state` changed by it."""

    __slots__ = (
        "_fall",
        "_has_failed",
        "_last",
        "_rise",
        "_streak",
        "_verdict",
        "is_distrusted",
        "is_draining",
        "links_up",
        "state",
    )

    def __init__(self, *, rise: int, fall: int) -> None:
        self._rise, self._fall = rise, fall
        self._has_failed = False
        self._verdict: bool | None = None
        self._last: bool | None = None
        self._streak = 0
        self.is_distrusted = False
        """It has signed wrongly, and not enough good probes came since; a new link does not change that."""
        self.is_draining = False
        self.links_up = 0
        self.state = NodeState.CONNECTING

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

    def probed(self, *, is_good: bool) -> bool:
        """Record a probe's result: `rise` good ones in a row bring the node in, `fall` bad ones take it out."""
        self._streak = self._streak + 1 if is_good is self._last else 1
        self._last = is_good
        if self._streak >= self._needed(is_good):
            self._verdict = is_good
            self.is_distrusted = self.is_distrusted and not is_good
        return self._settle()

    def signed_wrongly(self) -> bool:
        """A signature was wrong: out at once, whatever came before."""
        self.is_distrusted = True
        self._verdict, self._last, self._streak = False, None, 0
        return self._settle()

    def _needed(self, is_good: bool) -> int:
        if not is_good:
            return self._fall
        return max(self._rise, RISE_AFTER_WRONG) if self.is_distrusted else self._rise

    def _prove_again(self) -> None:
        self._verdict = self._last = None
        self._streak = 0
        self.is_draining = False

    def _settle(self) -> bool:
        before, self.state = self.state, self._judge()
        return before is not self.state

    def _judge(self) -> NodeState:
        if self.links_up == 0:
            return NodeState.DOWN if self._has_failed else NodeState.CONNECTING
        return NodeState.DRAINING if self.is_draining else _BY_VERDICT[self._verdict]
