"""The verdict: which figures are good, and a sentence for each that is not. Pure; all thresholds are here."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.chaos.faults import FaultPlan, Limit
from proxy.chaos.figures import FaultFigures

P99_FACTOR = 2.0
"""p99 during to p99 before, where a fault can be told at once."""
DEADLINE_SLACK_S = 0.5
"""A handshake may end so much after the deadline of its signature: its alert has to be sent and read."""
RECOVERY_LIMIT_S = 2.0
"""All down: first node listening to first good handshake."""
SITE_P99_SHIFT = 0.2
"""Two sites: how far the p99 of the healthy one may move while the other's only node hangs, as a share of it."""
LATE_SHARE = 0.02
"""More handshakes than this that the load itself began late: the row is marked."""
BUSY_CPU = 0.9
"""More of the machine's CPU in use than this: the row is marked."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """What the proxy was told (docs/signing.md), seconds."""

    attempt_s: float
    job_s: float


def p99_limit_ms(plan: FaultPlan, figures: FaultFigures, timeouts: Timeouts) -> float | None:
    """The most that the p99 may be while the fault is on; None where it is not judged."""
    before = figures.before.p99_ms
    if before is None or plan.limit is Limit.NONE:
        return None
    return round(P99_FACTOR * before if plan.limit is Limit.TWICE else timeouts.attempt_s * 1e3 + before, 1)


def judge(plan: FaultPlan, figures: FaultFigures, timeouts: Timeouts) -> tuple[str, ...]:
    """What is wrong, a sentence each; nothing when the fault was borne."""
    problems = [] if figures.before.offered else ["no handshake was made before the fault"]
    if figures.during.offered == 0:
        problems.append("no handshake was made during the fault")
    problems += _all_down_problems(figures, timeouts) if plan.hits_all else _failures(figures)
    limit = p99_limit_ms(plan, figures, timeouts)
    during = figures.during.p99_ms
    if limit is not None and during is not None and during > limit:
        problems.append(f"p99 during was {during:,.0f} ms; at most {limit:,.0f} ms ({plan.limit.value})")
    if figures.time_to_full_share_s is None:
        problems.append(f"{_names(figures)} did not come back to a full share")
    return tuple(problems)


def unexpected_failures(plan: FaultPlan, figures: FaultFigures) -> int:
    """Failed handshakes that should not be; with every node down those of that time are expected."""
    around = figures.before.failed + figures.after.failed
    return around if plan.hits_all else around + figures.during.failed


def site_limit_ms(figures: FaultFigures) -> float | None:
    """What the p99 of the healthy site must stay under while the other's node hangs."""
    before = figures.before.p99_ms
    return None if before is None else round((1 + SITE_P99_SHIFT) * before, 1)


def judge_sites(figures: FaultFigures) -> tuple[str, ...]:
    """The healthy site of `--scenario two-sites`."""
    problems = _failures(figures)
    before, during = figures.before.p99_ms, figures.during.p99_ms
    if before is None or during is None:
        return (*problems, "no handshake was good before or during the fault")
    if abs(during - before) >= SITE_P99_SHIFT * before:
        problems.append(f"p99 moved from {before:,.0f} to {during:,.0f} ms; less than {SITE_P99_SHIFT * 100:.0f} %")
    return tuple(problems)


def remarks(figures: FaultFigures) -> tuple[str, ...]:
    """Why a row is worth less than it seems: the machine or the load itself was at its end."""
    offered = figures.before.offered + figures.during.offered + figures.after.offered
    found = []
    if figures.generator_late > LATE_SHARE * offered:
        found.append(
            f"the load began {figures.generator_late} of {offered} handshakes late, so latencies are partly its own"
        )
    if figures.cpu_busy > BUSY_CPU:
        found.append(f"the machine's CPU was {figures.cpu_busy * 100:.0f} % in use, so latencies are partly its own")
    return tuple(found)


def _failures(figures: FaultFigures) -> list[str]:
    counts = {"before": figures.before.failed, "during": figures.during.failed, "after": figures.after.failed}
    if not any(counts.values()):
        return []
    told = ", ".join(f"{count} {phase}" for phase, count in counts.items() if count)
    return [f"handshakes failed: {told} ({_most_frequent(figures)})"]


def _all_down_problems(figures: FaultFigures, timeouts: Timeouts) -> list[str]:
    problems = []
    around = figures.before.failed + figures.after.failed
    if around:
        problems.append(f"{around} handshakes failed before or after ({_most_frequent(figures)})")
    if figures.during.failed == 0:
        problems.append("no handshake failed, so the nodes were not really down")
    longest, limit = figures.longest_failure_s, timeouts.job_s + DEADLINE_SLACK_S
    if longest is not None and longest > limit:
        problems.append(f"a failing handshake took {longest:.1f} s; at most {limit:.1f} s")
    if figures.recovery_s is None:
        problems.append("no handshake was good after the nodes were back")
    elif figures.recovery_s >= RECOVERY_LIMIT_S:
        problems.append(f"recovery took {figures.recovery_s:.1f} s; less than {RECOVERY_LIMIT_S:.0f} s")
    return problems


def _most_frequent(figures: FaultFigures) -> str:
    told = next(iter(figures.errors), "no error was told")
    reasons = ", ".join(f"{reason} {count}" for reason, count in figures.reasons.items())
    return f"{told}; the proxy says: {reasons}" if reasons else told


def _names(figures: FaultFigures) -> str:
    return ", ".join(figures.nodes)
