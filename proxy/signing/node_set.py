"""The nodes of one worker as they come and go: made, started, let go, and told what the operator wants.

Knows links and tasks only through `SigningNode`; decides nothing about jobs.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random

from hsm.shared.logs import get_logger
from hsm.shared.tasks import Tasks
from proxy.base.observe import NodeState, ProxyObserver
from proxy.base.policy import NodeAddress, NodeAdmin, SigningPolicy
from proxy.signing.commands import Command, NodeEjected, NodeReturned
from proxy.signing.node import SigningNode
from proxy.signing.prober import ProbeKey
from proxy.signing.results import CONSECUTIVE, SHARE
from proxy.signing.router import Router
from proxy.signing.verification import KeyVerifier

HELD_LOOK_S = 0.25
"""How often the last node, which should go, is asked whether another one is up."""
_WHY = {CONSECUTIVE: "failures in a row", SHARE: "too large a share of failures"}


class NodeSet:
    """Every node that there is, by name."""

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        policy: SigningPolicy,
        *,
        ssl_context: ssl.SSLContext,
        router: Router,
        carry_out: Callable[[list[Command]], None],
        observer: ProxyObserver,
        probe_keys: Sequence[ProbeKey],
        verifiers: Mapping[bytes, KeyVerifier],
        tasks: Tasks,
        rng: Random,
    ) -> None:
        self._router, self._carry_out, self._observer, self._tasks = router, carry_out, observer, tasks
        self._log = get_logger("signing")

        def make(address: NodeAddress) -> SigningNode:
            return SigningNode(
                address,
                policy,
                ssl_context=ssl_context,
                router=router,
                carry_out=carry_out,
                observer=observer,
                probe_keys=probe_keys,
                verifiers=verifiers,
                tasks=tasks,
                rng=rng,
            )

        self._make = make
        self._nodes = {address.name: make(address) for address in nodes}
        self._leaving: dict[str, NodeAddress | None] = {}
        """Nodes that are being let go, and those that shall come back right after that."""

    def __getitem__(self, name: str) -> SigningNode:
        return self._nodes[name]

    def __iter__(self) -> Iterator[SigningNode]:
        return iter(self._nodes.values())

    def start(self) -> None:
        """Begin to connect to every node."""
        for node in self:
            node.start()

    def stop(self) -> None:
        """Close every link."""
        for node in self:
            node.stop()

    def add(self, address: NodeAddress) -> None:
        """A node is there. Of a name that is known: its weight is another now, or it is back while it still drained."""
        if address.name in self._leaving:
            self._leaving[address.name] = address
        elif address.name in self._nodes:
            self._router.fleet.reweigh(address)
            self._nodes[address.name].weight = address.weight
        else:
            self._carry_out(self._router.add_node(address, time.monotonic()))
            self._nodes[address.name] = node = self._make(address)
            node.start()

    def remove(self, name: str) -> None:
        """A node is gone: it gets no new jobs, what it has may take one attempt's time, then its links are closed.

        The last node that is up stays until another one is.
        """
        if name in self._leaving:
            self._leaving[name] = None
        elif name in self._nodes:
            self._leaving[name] = None
            self._tasks.start(self._let_go(self._nodes[name]), name=f"node {name} leaves")

    def set_admin(self, name: str, state: NodeAdmin) -> bool:
        """Let an operator's wish come true; False where there is no such node."""
        if name not in self._nodes or name in self._leaving:
            return False
        self._nodes[name].set_admin(state, f"{state} by the operator")
        return True

    def tell(self, command: NodeEjected | NodeReturned) -> None:
        """The router's word on the results of a node or of one of its keys."""
        is_ejected = isinstance(command, NodeEjected)
        why = _WHY.get(command.why, command.why) if isinstance(command, NodeEjected) else "its time is over"
        key = command.ski.hex() or "all"
        if isinstance(command, NodeEjected):
            for_s = round(command.until - time.monotonic(), 1)
            self._log.warning("ejected", node=command.node, key=key, why=why, for_s=for_s)
            self._observer.node_ejected(command.node, command.why)
        elif command.ski:
            self._log.info("key_returned", node=command.node, key=key, why=why)
        if command.node in self._nodes and not command.ski:
            self._nodes[command.node].told_ejected(is_ejected, why)

    def _is_last(self, node: SigningNode) -> bool:
        """Whether no other node is up, or all others that are leave, too, and began to after this one."""
        if node.state is not NodeState.UP:
            return False
        if any(other.state is NodeState.UP for other in self if other.name not in self._leaving):
            return False
        return node.name == next(name for name in self._leaving if self._nodes[name].state is NodeState.UP)

    async def _let_go(self, node: SigningNode) -> None:
        while self._leaving[node.name] is None and self._is_last(node):
            # On the word of a name server alone, signing does not stop.
            await asyncio.sleep(HELD_LOOK_S)
            back = self._leaving[node.name]
            if back is not None and node.is_reached_by(back):
                del self._leaving[node.name]
                return self.add(back)
        try:
            await node.drain_and_stop()
        finally:
            del self._nodes[node.name]
            self._carry_out(self._router.remove_node(node.name, time.monotonic()))
            self._observer.node_gone(node.name)
            returning = self._leaving.pop(node.name)
        if returning is not None:
            self.add(returning)
        return None
