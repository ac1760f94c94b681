"""Reports of a fleet, as master and workers write them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from proxy.base.policy import NodeAdmin
from proxy.run.board import MasterReport, NodeReport, SlotReport, WorkerReport
from proxy.run.cells import Snapshot
from proxy.signing.headroom import CapacityBasis


def master_report(*, is_draining: bool = False, worker_pids: tuple[int, ...] = (11,)) -> MasterReport:
    """A master with a control process and some workers."""
    workers = tuple(SlotReport(name=f"worker-{n}", pid=pid, restarts=n) for n, pid in enumerate(worker_pids))
    return MasterReport(
        pid=1,
        version="0.1.0",
        generation=1,
        started="2026-01-01T00:00:00+00:00",
        is_draining=is_draining,
        slots=(SlotReport(name="control", pid=10, restarts=0), *workers),
        listeners=("127.0.0.1:8443",),
    )


def worker_report(
    slot: str,
    pid: int,
    *,
    because: str = "",
    age_s: float = 0.0,
    nodes: dict[str, str] | Sequence[NodeReport] | None = None,
    snapshot: Snapshot | None = None,
    holders: dict[str, tuple[str, ...]] | None = None,
    is_accepting: bool = True,
    is_draining: bool = False,
) -> WorkerReport:
    """A worker that is ready unless `because` says why not; `nodes` are states by name, or reports."""
    if isinstance(nodes, dict):
        nodes = [node_report(name, state=state) for name, state in nodes.items()]
    return WorkerReport(
        slot=slot,
        incarnation=pid,
        pid=pid,
        generation=1,
        at=time.monotonic() - age_s,
        is_ready=not because,
        is_draining=is_draining,
        unready_because=because,
        is_accepting=is_accepting,
        connections=2,
        nodes=tuple(nodes or ()),
        holders=holders or {},
        snapshot=snapshot or Snapshot(),
    )


def node_report(
    name: str,
    *,
    state: str = "up",
    admin: NodeAdmin = "enabled",
    in_flight: int = 1,
    rate: float = 10.0,
    capacity: float = 100.0,
    basis: CapacityBasis = CapacityBasis.ESTIMATED,
    window: float = 16.0,
    latency_s: float = 0.002,
    zone: str = "",
) -> NodeReport:
    """A node in one worker's eyes; it is in rotation where its state is up."""
    return NodeReport(
        name=name,
        address="127.0.0.1:1",
        state=state,
        in_flight=in_flight,
        signatures=3,
        failures=1,
        zone=zone,
        admin=admin,
        is_up=state == "up",
        window=window,
        latency_s=latency_s,
        rate_per_s=rate,
        capacity_per_s=capacity,
        basis=basis.value,
    )
