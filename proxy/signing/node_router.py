"""What a node needs of the router: a protocol, so that neither knows more of the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from proxy.signing.commands import Command
from proxy.signing.facts import NodeFacts
from proxy.signing.inventory import Inventory


class AttemptLoad(Protocol):
    """What a node tells of the router's load."""

    @property
    def in_flight(self) -> int:
        """Attempts of this worker under way at the node."""


class NodeRouter(Protocol):
    """What a node needs of the router; what happens is answered with commands."""

    @property
    def inventory(self) -> Inventory:
        """Who holds which key."""

    def load_of(self, node: str) -> AttemptLoad:
        """How much the node has to do."""

    def on_facts(self, node: str, facts: NodeFacts, now: float) -> list[Command]:
        """Links, probes or the operator changed what is known of the node."""

    def on_link_lost(self, node: str, now: float) -> list[Command]:
        """The last link is gone: its jobs go elsewhere."""

    def on_paused(self, node: str, now: float, *, is_paused: bool) -> list[Command]:
        """The links take no more bytes for now, or again."""

    def on_keys(self, node: str, skis: Iterable[bytes] | None, now: float) -> list[Command]:
        """The node listed its keys (None: it can't)."""

    def on_key_missing(self, node: str, ski: bytes, now: float) -> list[Command] | None:
        """A probe found that the node lacks a key."""

    def on_proven(self, node: str, ski: bytes, duration_s: float, now: float, /) -> list[Command] | None:
        """A probe with this key was signed well, or an echo came back (b"")."""
