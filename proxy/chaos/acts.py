"""Brings faults about, and ends them: processes, devices and links. Each act is a context that lasts as the fault does.

A context that is left in order has ended its fault, and what was dead listens again. One that is broken off leaves
all as it is, since the whole cluster is stopped then, but for a node that sleeps: it could not be stopped.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from certs.site_keys import TOKEN_NAME
from hsm.cli.management_client import call
from hsm.shared.tasks import Tasks
from proxy.chaos.relay import order
from proxy.demo.cluster import Cluster
from proxy.demo.processes import ProgramError

CUT_S, WHOLE_S = 0.4, 0.6
"""A link that flaps: how long it is cut and how long whole, in turn."""
RESET_EVERY_S = 1.0
SLOW_FACTOR = 10
ERROR_SHARE = 0.3
RESTART_TIMEOUT_S = 30.0
LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Stage:
    """Where faults are played."""

    cluster: Cluster
    relay: Path
    """Socket of the relay."""

    async def order(self, node: str, what: str) -> None:
        """Has the relay do something to a node's link. Raises OSError."""
        await order(self.relay, node, what)

    async def break_device(self, node: str, fault: Mapping[str, object]) -> None:
        """Switches a fault of a node's simulated HSM on. Raises ManagementProblem."""
        await self._manage(node, "POST", "", dict(fault))

    async def mend_device(self, node: str, kind: str) -> None:
        """Switches one of its faults off. Raises ManagementProblem."""
        await self._manage(node, "DELETE", f"?name={kind}", None)

    async def _manage(self, node: str, method: str, query: str, body: dict[str, Any] | None) -> None:
        socket = self.cluster.nodes[node].socket
        await asyncio.to_thread(call, socket, method, f"/tokens/{TOKEN_NAME}/faults{query}", body)

    async def revive(self, nodes: Sequence[str]) -> None:
        """Starts dead nodes; returns when the first of them listens. Raises ProgramError."""
        for node in nodes:
            self.cluster.node_programs[node].start()
        deadline = time.monotonic() + RESTART_TIMEOUT_S
        while not [node for node in nodes if await _listens(self.cluster.nodes[node].port)]:
            if time.monotonic() > deadline:
                tail = self.cluster.node_programs[nodes[0]].log_tail()
                raise ProgramError(f"{', '.join(nodes)} did not start again within {RESTART_TIMEOUT_S:g} s:\n{tail}")
            await asyncio.sleep(LOOK_S)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


Act: TypeAlias = Callable[[Stage, Sequence[str]], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _killed(stage: Stage, nodes: Sequence[str]) -> AsyncIterator[None]:
    for node in nodes:
        stage.cluster.node_programs[node].signal(signal.SIGKILL)
    for node in nodes:
        await asyncio.to_thread(stage.cluster.node_programs[node].kill)  # waits until it is gone
    yield
    await stage.revive(nodes)


@asynccontextmanager
async def _frozen(stage: Stage, nodes: Sequence[str]) -> AsyncIterator[None]:
    programs = [stage.cluster.node_programs[node] for node in nodes]
    for program in programs:
        program.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for program in programs:
            program.signal(signal.SIGCONT)


@asynccontextmanager
async def _broken_device(
    kind: str, more: Mapping[str, object], stage: Stage, nodes: Sequence[str]
) -> AsyncIterator[None]:
    for node in nodes:
        await stage.break_device(node, {"kind": kind, **more})
    yield
    for node in nodes:
        await stage.mend_device(node, kind)


@asynccontextmanager
async def _broken_link(steps: Sequence[tuple[str, float]], stage: Stage, nodes: Sequence[str]) -> AsyncIterator[None]:
    """Orders, each for some seconds, again and again; the link is whole in the end."""

    async def go_round() -> None:
        while True:
            for what, seconds in steps:
                for node in nodes:
                    await stage.order(node, what)
                await asyncio.sleep(seconds)

    tasks = Tasks()
    task = tasks.start(go_round(), name="link")
    try:
        yield
    finally:
        await tasks.stop()
    if task.done() and not task.cancelled():
        task.result()  # the relay is gone: raises
    for node in nodes:
        await stage.order(node, "pass")


def _device(kind: str, **more: object) -> Act:
    return partial(_broken_device, kind, more)


def _link(*steps: tuple[str, float]) -> Act:
    return partial(_broken_link, steps)


ACTS: dict[str, Act] = {
    "kill": _killed,
    "hang": _device("hang"),
    "freeze": _frozen,
    "slow": _device("slow", factor=SLOW_FACTOR),
    "flap": _link(("cut", CUT_S), ("pass", WHOLE_S)),
    "error": _device("error", rate=1.0),
    "error-some": _device("error", rate=ERROR_SHARE),
    "wrong-signature": _device("wrong-signature", rate=1.0),
    "lost-key": _device("lost-key"),
    "reset": _link(("reset", RESET_EVERY_S)),
    "half-open": _link(("swallow", 3600.0)),
    "all-down": _killed,
}
"""By the names of `faults.py`."""
