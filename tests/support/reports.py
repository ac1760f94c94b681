"""Reports of a fleet, as master and workers write them."""

from __future__ import annotations

import time

from proxy.run.board import MasterReport, NodeReport, SlotReport, WorkerReport
from proxy.run.cells import Snapshot


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
    nodes: dict[str, str] | None = None,
    snapshot: Snapshot | None = None,
) -> WorkerReport:
    """A worker that is ready unless `because` says why not; `nodes` are states by name."""
    return WorkerReport(
        slot=slot,
        incarnation=pid,
        pid=pid,
        generation=1,
        at=time.monotonic() - age_s,
        is_ready=not because,
        is_draining=False,
        unready_because=because,
        connections=2,
        nodes=tuple(
            NodeReport(name=name, address="127.0.0.1:1", state=state, in_flight=1, signatures=3, failures=1)
            for name, state in (nodes or {}).items()
        ),
        snapshot=snapshot or Snapshot(),
    )
