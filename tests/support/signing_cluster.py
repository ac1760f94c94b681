"""A signer in front of scripted nodes on loopback sockets, and an observer that keeps the balance."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from hsm.wire.schemes import Scheme
from proxy.base.errors import SigningError, SigningReason
from proxy.base.jobs import SignJob
from proxy.base.observe import NodeState, ProxyObserver
from proxy.base.policy import RoutingPolicy
from proxy.signing.signer import Signer
from proxy.signing.verification import KeyVerifier
from tests.support.fake_node import FakeKey, FakeNode, LinkPki
from tests.support.play import policy

QUICK = {
    "attempt_timeout_s": 0.4,
    "job_timeout_s": 3.0,
    "connect_timeout_s": 1.0,
    "reconnect_min_s": 0.02,
    "reconnect_max_s": 0.1,
    "probe_interval_s": 0.1,
    "probe_timeout_s": 0.4,
}
"""Times that let a fault be seen through in a moment."""


class Recording(ProxyObserver):
    """Counts what it hears about signatures."""

    def __init__(self) -> None:
        self.started = 0
        self.finished: Counter[str] = Counter()
        self.failed: Counter[SigningReason] = Counter()
        self.attempts_started = 0
        self.attempts: Counter[tuple[str, SigningReason | None]] = Counter()
        self.probes: Counter[tuple[str, SigningReason | None]] = Counter()
        self.states: list[tuple[str, NodeState]] = []
        self.most_waiting = 0
        self.waiting = 0
        self.crashed: list[str] = []
        self.hedges: Counter[str] = Counter()
        self.hedges_won: Counter[str] = Counter()
        self.gone: list[str] = []

    def job_started(self, site: str, scheme: str) -> None:
        self.started += 1

    def job_finished(self, site: str, scheme: str, node: str, duration_s: float) -> None:
        self.finished[node] += 1

    def job_failed(self, site: str, scheme: str, reason: SigningReason, duration_s: float) -> None:
        self.failed[reason] += 1

    def attempt_started(self, node: str) -> None:
        self.attempts_started += 1

    def attempt_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        assert duration_s >= 0
        self.attempts[node, reason] += 1

    def probe_finished(self, node: str, reason: SigningReason | None, duration_s: float) -> None:
        self.probes[node, reason] += 1

    def node_changed(self, node: str, state: NodeState) -> None:
        self.states.append((node, state))

    def queue_changed(self, waiting: int) -> None:
        self.waiting = waiting
        self.most_waiting = max(waiting, self.most_waiting)

    def task_crashed(self, name: str) -> None:
        self.crashed.append(name)

    def hedge_started(self, node: str) -> None:
        self.hedges[node] += 1

    def hedge_won(self, node: str) -> None:
        self.hedges_won[node] += 1

    def node_gone(self, node: str) -> None:
        self.gone.append(node)

    def check_balance(self) -> None:
        """Every job and every attempt that began has ended once."""
        assert self.started == self.finished.total() + self.failed.total()
        assert self.attempts_started == self.attempts.total()
        assert self.waiting == 0
        assert self.crashed == []


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Cluster:
    """Nodes a, b, c with one P-256 key, and a signer."""

    nodes: dict[str, FakeNode]
    signer: Signer
    observer: Recording
    key: FakeKey
    messages: int = field(default=0)

    def job(self, *, timeout_s: float = 3.0, key: FakeKey | None = None, scheme: Scheme | None = None) -> SignJob:
        """A job like no other."""
        self.messages += 1
        return SignJob(
            ski=(key or self.key).ski,
            scheme=scheme or Scheme.ECDSA_SHA256,
            message=f"handshake {self.messages}".encode(),
            site="site",
            deadline=asyncio.get_running_loop().time() + timeout_s,
            client_ip="192.0.2.1",
            server_name="site.example",
        )

    async def sign(self, **changes: Any) -> bytes:
        """Sign one job and verify the signature."""
        job = self.job(**changes)
        signature = await self.signer.sign(job)
        key = changes.get("key") or self.key
        assert KeyVerifier(key.public_pem).is_good(job.scheme, job.message, signature)
        return signature

    async def failure(self, **changes: Any) -> SigningError:
        """Sign one job, which must fail."""
        with pytest.raises(SigningError) as caught:
            await self.signer.sign(self.job(**changes))
        return caught.value

    async def up(self, *names: str) -> None:
        """Wait until exactly these nodes are up."""
        await until(lambda: {s.name for s in self.signer.status() if s.state is NodeState.UP} == set(names))

    def state(self, name: str) -> NodeState:
        """The state of one node."""
        return next(status.state for status in self.signer.status() if status.name == name)


async def start_cluster(
    link_pki: LinkPki,
    names: str = "abc",
    *,
    keys: dict[str, list[FakeKey]] | None = None,
    plain: str = "",
    knows_public_key: bool = True,
    site_keys: Sequence[FakeKey] = (),
    routing: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Cluster:
    """Start nodes (one letter each) and a signer that connects to them; `changes` go into the policy.

    Nodes hold the first P-256 key unless `keys` says otherwise, and it is the only site's key unless `site_keys` does.
    """
    key = FakeKey.make()
    site_keys = site_keys or [key]
    nodes = {name: FakeNode(name, link_pki, (keys or {}).get(name, [key]), is_plain=name in plain) for name in names}
    for node in nodes.values():
        await node.start()
    observer = Recording()
    signer = Signer(
        [node.address for node in nodes.values()],
        policy(**QUICK | changes),
        routing=RoutingPolicy(**(routing or {})),
        ssl_context=link_pki.client_context(),
        observer=observer,
        site_keys=[(each.ski, each.type) for each in site_keys],
        public_keys={each.ski: each.public_pem for each in site_keys} if knows_public_key else None,
        rng=Random(7),
    )
    await signer.start()
    return Cluster(nodes, signer, observer, key)
