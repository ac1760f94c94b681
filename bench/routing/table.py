"""Runs scenarios and shows what came out: a table for people, rows for machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.routing.engine import Simulation
from bench.routing.policies import Policy
from bench.routing.scenarios import Scenario


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario with one policy. Times in milliseconds; shares from 0 to 1."""

    scenario: str
    title: str
    policy: str
    jobs: int
    good_share: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    before_p99_ms: float | None
    after_p99_ms: float | None
    failed: int
    fail_worst_ms: float
    extra_share: float
    hedge_share: float
    says: str
    breaches: tuple[str, ...]
    jobs_per_cpu_s: float


def play(scenario: Scenario, policy: Policy) -> Row:
    """Simulate one and judge it."""
    began = time.process_time()
    sim = Simulation(scenario.setting, policy).run()
    cpu_s = time.process_time() - began
    ledger = sim.ledger
    judged = ledger.between(*scenario.span, scenario.sites)
    before = ledger.between(*scenario.before, scenario.sites).p99_s * 1e3 if scenario.before else None
    after = ledger.between(*scenario.after, scenario.sites).p99_s * 1e3 if scenario.after else None
    return Row(
        scenario=scenario.name,
        title=scenario.title,
        policy=policy.name,
        jobs=ledger.jobs,
        good_share=judged.good_share,
        p50_ms=judged.p50_s * 1e3,
        p99_ms=judged.p99_s * 1e3,
        p999_ms=judged.p999_s * 1e3,
        before_p99_ms=before,
        after_p99_ms=after,
        failed=judged.failed,
        fail_worst_ms=judged.fail_worst_s * 1e3,
        extra_share=max(0.0, ledger.extra_share(*scenario.span)),
        hedge_share=ledger.hedges / max(1, ledger.started),
        says=scenario.says(sim) if scenario.says else "",
        breaches=tuple(sim.checks.breaches),
        jobs_per_cpu_s=ledger.jobs / max(cpu_s, 1e-9),
    )


def play_all(scenarios: Iterable[Scenario], say: Callable[[str], None]) -> list[Row]:
    """Simulate all, with every policy of each."""
    rows: list[Row] = []
    for scenario in scenarios:
        for policy in scenario.policies:
            row = play(scenario, policy)
            say(f"{scenario.name}, {policy.name}: {row.jobs:,} jobs, {row.jobs_per_cpu_s:,.0f} per second of CPU")
            for breach in row.breaches:
                say(f"  BREACH {breach}")
            rows.append(row)
    return rows


HEADS = ("policy", "good", "p50", "p99", "p99.9", "p99 before", "p99 after", "failed", "in at most", "extra",
         "what else")  # fmt: skip


def _cells(row: Row) -> tuple[str, ...]:
    def ms(value: float | None) -> str:
        return "" if value is None else f"{value:,.1f}"

    return (
        row.policy,
        f"{row.good_share:.2%}",
        ms(row.p50_ms),
        ms(row.p99_ms),
        ms(row.p999_ms),
        ms(row.before_p99_ms),
        ms(row.after_p99_ms),
        f"{row.failed:,}" if row.failed else "",
        ms(row.fail_worst_ms) if row.failed else "",
        f"{row.extra_share:.1%}",
        row.says + (f" {len(row.breaches)} BREACHES" if row.breaches else ""),
    )


def print_tables(rows: list[Row], console: Console) -> None:
    """For people; times are milliseconds."""
    for title, some in _by_scenario(rows):
        table = Table(title=title, title_justify="left")
        for head in HEADS:
            table.add_column(head, justify="left" if head in ("policy", "what else") else "right")
        for row in some:
            table.add_row(*_cells(row))
        console.print(table)


def as_markdown(rows: list[Row], command: str) -> str:
    """The same for a page."""
    lines = [
        "# Routing policies compared",
        "",
        f"Printed by `{command}`: a discrete-event simulation with the real router and simulated HSMs.",
        "Times are milliseconds from submission to signature of the handshakes that began in the span judged (from the",
        "fault to its end, for example); *failed* are those that got none although the client waited, *in at most* how",
        "long the last of them had to wait for that; *extra* are signatures that nobody used. Round robin and least",
        "outstanding stand for what peers do: a fixed window of 512, an attempt timeout of 1 s, retries, probes. They",
        "run in the same router, and so have its queue, its bounds and its fairness between sites.",
        "",
    ]
    for title, some in _by_scenario(rows):
        lines += [f"## {title}", "", "| " + " | ".join(HEADS) + " |", "|" + " --- |" * len(HEADS)]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in some]
        lines.append("")
    return "\n".join(lines)


def as_objects(rows: list[Row]) -> list[dict[str, object]]:
    """For machines."""
    return [asdict(row) for row in rows]


def _by_scenario(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.scenario}: {row.title}", []).append(row)
    return list(found.items())
