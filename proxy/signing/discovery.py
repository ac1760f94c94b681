"""What an answer of the DNS means in nodes: their names, addresses, weights, and when to ask again.

Pure: `resolver.py` asks, `roster.py` remembers what earlier answers said. Knows no DNS library.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from hsm.shared.addresses import format_address
from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource, NodeAddress

Key = tuple[int, int, int]
"""Version of IP, address, port: what makes two nodes the same, in the order in which nodes are listed."""

MIN_DELAY_S = 1.0
"""Shortest time between two look-ups of one source, whatever the records' TTL."""
JITTER = 0.1
"""Look-ups come this share earlier or later, so that workers and proxies do not ask in step."""
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0
MAX_NAME = 64
MAX_SUFFIX = len("-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff-65535")


@dataclass(frozen=True, slots=True)
class Record:
    """One address that an answer names."""

    address: str
    port: int
    question: str
    """The look-up that gave it: "A", "AAAA", or the SRV record's target. While that fails, the node is kept."""
    target: str = ""
    """Host that an SRV record names, without the final dot."""
    priority: int = 0
    weight: int = 0
    """Both of an SRV record (RFC 2782)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one look-up of a source."""

    outcome: LookupOutcome
    records: tuple[Record, ...] = ()
    ttl_s: float = 0.0
    """The shortest of the records."""
    unanswered: frozenset[str] = frozenset()
    """Questions (see `Record`) that were not answered; what they would have said is unknown."""
    left_out: int = 0
    """Targets that were not looked up because there are too many."""
    detail: str = ""
    """Why it failed, for people."""


@dataclass(frozen=True, slots=True)
class FoundNode:
    """A node that an answer names."""

    key: Key
    node: NodeAddress
    question: str
    host: str
    """The name it goes by in the DNS: the SRV record's target, or the name that was looked up."""
    priority: int = 0


def nodes_in(source: DiscoverySource, records: Iterable[Record]) -> list[FoundNode]:
    """The nodes that records stand for, by priority and address; each once.

    Addresses that no node can have (0.0.0.0, multicast, port 0) are passed over: name servers that filter give them.
    Records of a priority behind the best one become backups: they have links and are probed, but are asked only where
    no better one can take a job.
    """
    best: dict[Key, Record] = {}
    for record in records:
        key = key_of(record.address, record.port)
        if key is not None and (key not in best or _rank(record) < _rank(best[key])):
            best[key] = record
    if not best:
        return []
    first = min(record.priority for record in best.values())
    heaviest: dict[int, int] = {}
    for record in best.values():
        heaviest[record.priority] = max(record.weight, heaviest.get(record.priority, 0))
    found = []
    for key, record in best.items():
        share = _share(record.weight, heaviest[record.priority])
        found.append(_found(source, key, record, share, is_backup=record.priority != first))
    return sorted(found, key=lambda each: (each.priority, each.key))


def key_of(address: str, port: int) -> Key | None:
    """The key of an IP address and port, or None where that is no address of a node."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_unspecified or ip.is_multicast or not 0 < port <= 65535:
        return None
    return ip.version, int(ip), port


def node_name(source: str, key: Key) -> str:
    """`source-ADDRESS-PORT`, a valid name: colons become dashes, a long name of a source is cut and gets a digest."""
    address = _ip_text(key).replace(":", "-")
    suffix = f"-{address}-{key[2]}"
    if len(source) + len(suffix) > MAX_NAME:
        digest = hashlib.sha256(source.encode()).hexdigest()[:6]
        source = f"{source[: MAX_NAME - MAX_SUFFIX - len(digest) - 1]}-{digest}"
    return source + suffix


def _ip_text(key: Key) -> str:
    return str(ipaddress.IPv4Address(key[1]) if key[0] == 4 else ipaddress.IPv6Address(key[1]))


def _rank(record: Record) -> tuple[int, int]:
    return record.priority, -record.weight


def _share(weight: int, heaviest: int) -> float:
    """The heaviest record counts as 1, and where none has a weight, all do."""
    return weight / heaviest if heaviest else 1.0


def _found(source: DiscoverySource, key: Key, record: Record, share: float, *, is_backup: bool) -> FoundNode:
    host = (record.target or source.record).removesuffix(".").lower()
    node = NodeAddress(
        name=node_name(source.name, key),
        address=format_address(_ip_text(key), key[2]),
        server_name=source.server_name or host,
        zone=source.zone,
        weight=min(MAX_WEIGHT, max(MIN_WEIGHT, round(source.weight * share, 4))),
        backup=is_backup,
        capacity_per_s=source.capacity_per_s,
    )
    return FoundNode(key, node, record.question, host, record.priority)


class LookupPace:
    """When a source is looked up again: when its records end, sooner after a failure, within 1 s and `interval_s`."""

    def __init__(self, interval_s: float, rng: Random) -> None:
        self._longest_s = max(MIN_DELAY_S, interval_s)
        self._rng = rng
        self._failures = 0

    def delay_s(self, answer: Answer) -> float:
        """Seconds until the next look-up, after `answer`. A failure is tried again after 1 s, then 2, 4, ..."""
        if answer.outcome is LookupOutcome.OK:
            self._failures = 0
            wanted_s = answer.ttl_s
        else:
            wanted_s = MIN_DELAY_S * 2.0 ** min(self._failures, 30)
            self._failures += 1
        wanted_s = min(self._longest_s, max(MIN_DELAY_S, wanted_s))
        soonest_s = max(MIN_DELAY_S, wanted_s * (1 - JITTER))
        return self._rng.uniform(soonest_s, min(self._longest_s, wanted_s * (1 + JITTER)))
