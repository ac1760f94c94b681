"""The whole result as values, and as the one JSON object for machines. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from proxy.chaos.faults import FaultPlan
from proxy.chaos.figures import FaultFigures
from proxy.chaos.judge import (
    Timeouts,
    judge,
    judge_sites,
    p99_limit_ms,
    remarks,
    site_limit_ms,
    unexpected_failures,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, or one site's view of it, with the verdict."""

    name: str
    what: str
    figures: FaultFigures
    failed: int
    """Handshakes that failed and should not have."""
    p99_limit_ms: float | None
    problems: tuple[str, ...]
    """Why it is not good, a sentence each."""
    remarks: tuple[str, ...]
    """Why its figures are worth less than they seem."""
    is_judged: bool = True

    @property
    def is_good(self) -> bool:
        """The fault was borne as it should be."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run."""

    scenario: str
    rows: tuple[Row, ...]
    nodes: int
    rate_per_s: float
    """Handshakes per second that were offered."""
    capacity_per_s: float
    """Signatures per second that all nodes together can make."""
    load: float
    workers: int
    timeouts: Timeouts
    took_s: float

    @property
    def is_good(self) -> bool:
        """Every fault was borne."""
        return bool(self.rows) and all(row.is_good for row in self.rows)


def row_of(plan: FaultPlan, figures: FaultFigures, timeouts: Timeouts) -> Row:
    """A fault, judged."""
    return Row(
        name=plan.name,
        what=plan.what,
        figures=figures,
        failed=unexpected_failures(plan, figures),
        p99_limit_ms=p99_limit_ms(plan, figures, timeouts),
        problems=judge(plan, figures, timeouts),
        remarks=remarks(figures),
    )


def healthy_site_row(site: str, what: str, figures: FaultFigures) -> Row:
    """The site that must not feel what happens to the other's node."""
    failed = figures.before.failed + figures.during.failed + figures.after.failed
    limit = site_limit_ms(figures)
    return Row(f"hang: {site}", what, figures, failed, limit, judge_sites(figures), remarks(figures))


def stricken_site_row(site: str, what: str, figures: FaultFigures) -> Row:
    """The site whose only node hangs: shown, for what is its failures' way to end; not judged."""
    return Row(f"hang: {site}", what, figures, 0, None, (), remarks(figures), is_judged=False)


def to_json(report: Report) -> str:
    """One line."""
    return json.dumps(
        {
            "ok": report.is_good,
            "scenario": report.scenario,
            "nodes": report.nodes,
            "rate_per_s": report.rate_per_s,
            "capacity_per_s": report.capacity_per_s,
            "load": report.load,
            "workers": report.workers,
            "attempt_timeout_s": report.timeouts.attempt_s,
            "job_timeout_s": report.timeouts.job_s,
            "took_s": round(report.took_s, 1),
            "faults": [_row_json(row) for row in report.rows],
        }
    )


def _row_json(row: Row) -> Mapping[str, Any]:
    figures = asdict(row.figures)
    phases = (row.figures.before, row.figures.during, row.figures.after)
    offered = sum(phase.offered for phase in phases)
    figures.pop("name")
    return {
        "name": row.name,
        "ok": row.is_good,
        "judged": row.is_judged,
        "failed": row.failed,
        "offered": offered,
        "done": offered - sum(phase.failed for phase in phases),
        "p99_limit_ms": row.p99_limit_ms,
        **figures,
        "problems": row.problems,
        "remarks": row.remarks,
        "what": row.what,
    }
