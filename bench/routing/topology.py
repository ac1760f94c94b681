"""What is simulated, as values: nodes, sites, their load, and what goes wrong when."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from hsm.backends.simulated.device import DeviceModel
from hsm.backends.simulated.faults import Fault
from hsm.wire.schemes import KeyFamily, KeyType, Scheme

NODE_QUEUE = 1024
"""Requests a node lets wait before its token, as `sealgate node` does by default."""
_SCHEMES = {
    KeyFamily.RSA: Scheme.RSA_PSS_SHA256,
    KeyFamily.EC: Scheme.ECDSA_SHA256,
    KeyFamily.ED25519: Scheme.ED25519,
}


@dataclass(frozen=True, slots=True)
class SiteSpec:
    """One site, with one key and one stream of handshakes."""

    name: str
    rate: float
    """Handshakes per second."""
    kind: KeyType = KeyType.P256
    deadline_s: float = 5.0
    """What a handshake waits for its signature, at most."""
    weight: float = 1.0
    steps: tuple[tuple[float, float], ...] = ()
    """(time, factor): from then on the rate is multiplied by the factor."""
    is_paced: bool = False
    """Evenly spaced instead of at random (Poisson)."""
    leave_share: float = 0.0
    """Share of clients that go away before they have their signature, if it takes longer than `leave_after_s`."""
    leave_after_s: float = 0.05

    @property
    def ski(self) -> bytes:
        """Its key."""
        return hashlib.sha1(self.name.encode(), usedforsecurity=False).digest()

    @property
    def scheme(self) -> Scheme:
        """How its key signs."""
        return _SCHEMES[self.kind.family]

    def rate_at(self, now: float) -> float:
        """Handshakes per second at a time."""
        factor = 1.0
        for at, then in self.steps:
            if now >= at:
                factor = then
        return self.rate * factor


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node: a device behind a network."""

    name: str
    model: DeviceModel
    rtt_s: float = 0.0004
    """To the node and back."""
    zone: str = ""
    weight: float = 1.0
    lacks: frozenset[str] = frozenset()
    """Sites whose keys it does not hold."""
    lists_keys: bool = True
    """False: a plain Keyless node, which can't say what it holds."""
    queue: int = NODE_QUEUE


class Act(Enum):
    """What happens to a node."""

    FAULT = "fault"
    """The device gets a fault."""
    KILL = "kill"
    """The process ends: links are reset, what it had is lost, nobody answers until `until`."""
    RESET = "reset"
    """Its links are reset; they may be opened again at once."""
    BLACK_HOLE = "black-hole"
    """Nothing gets through in either direction, and nobody is told."""
    HANG_KEY = "hang-key"
    """Requests with the key of the site `key` are swallowed."""
    DRAIN = "drain"
    """The node says that it takes no new requests."""
    REMOVE = "remove"
    """It leaves the config; at `until` it is added again."""


@dataclass(frozen=True, slots=True)
class Incident:
    """Something goes wrong at `at` and is well again at `until` (None: never)."""

    at: float
    node: str
    act: Act
    until: float | None = None
    fault: Fault | None = None
    key: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """All that is needed to simulate, but for the policy."""

    nodes: Sequence[NodeSpec]
    sites: Sequence[SiteSpec]
    incidents: Sequence[Incident] = field(default=())
    seconds: float = 10.0
    """When the last handshake comes."""
    seed: int = 1
    zone: str = ""
    """Where the proxy stands."""
    max_jobs: int = 0
    """No more handshakes than these; 0: no bound."""

    def holds(self, node: NodeSpec, site: SiteSpec) -> bool:
        """Whether the node has the site's key."""
        return site.name not in node.lacks
