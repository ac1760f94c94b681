"""What is known of a node's health, as one value. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from hsm.wire.schemes import KeyFamily


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What links and probes say of a node; what its results say, the router knows itself."""

    is_usable: bool = False
    """A link is open and good probes have proven the node since; it does not drain, has not signed wrongly, and the
    operator wants it to sign."""
    failing: frozenset[KeyFamily] = frozenset()
    """Families of keys whose probes fail: the node is out of rotation for these."""
