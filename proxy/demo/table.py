"""The live table of the demo: what changes between two looks at the metrics, for people."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from proxy.demo.scrape import ProxyFigures


@dataclass(frozen=True, slots=True)
class Look:
    """One reading of the figures and when it was taken (monotonic seconds)."""

    at: float
    figures: ProxyFigures


def _rate(now: float, before: float, span_s: float) -> str:
    return f"{max(now - before, 0) / span_s:,.1f}"


def render(before: Look, now: Look) -> Group:
    """The whole table; rates are over the time between the two looks."""
    span_s = max(now.at - before.at, 1e-3)
    return Group(_nodes(before.figures, now.figures, span_s), _totals(before.figures, now.figures, span_s))


def _nodes(before: ProxyFigures, now: ProxyFigures, span_s: float) -> Table:
    table = Table(title="HSM nodes", title_justify="left", expand=False)
    for column, justify in (("node", "left"), ("health", "left"), ("signatures/s", "right"), ("signatures", "right"),
                            ("failed attempts", "right")):  # fmt: skip
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name in sorted(now.is_up):
        health = Text("up", "green") if now.is_up[name] else Text("DOWN", "bold red")
        done = now.signatures.get(name, 0)
        table.add_row(
            name,
            health,
            _rate(done, before.signatures.get(name, 0), span_s),
            f"{done:,.0f}",
            f"{now.attempt_failures.get(name, 0):,.0f}",
        )
    return table


def _totals(before: ProxyFigures, now: ProxyFigures, span_s: float) -> Table:
    table = Table(title="Proxy", title_justify="left", expand=False)
    table.add_column("")
    table.add_column("per second", justify="right")
    table.add_column("total", justify="right")
    failures, failures_before = sum(now.handshake_failures.values()), sum(before.handshake_failures.values())
    for label, current, earlier in (
        ("TLS handshakes", now.handshakes, before.handshakes),
        ("  of them resumed", now.resumed, before.resumed),
        ("failed handshakes", failures, failures_before),
        ("HTTP requests", now.requests, before.requests),
        ("5xx answers", now.responses_5xx, before.responses_5xx),
    ):
        table.add_row(label, _rate(current, earlier, span_s), f"{current:,.0f}")
    table.add_row("active TLS sessions", "", f"{now.active_sessions:,.0f}")
    jobs = now.jobs - before.jobs
    mean = f"{(now.signature_seconds - before.signature_seconds) / jobs * 1e3:.1f} ms" if jobs > 0 else "-"
    table.add_row("signature latency, mean", mean, "")
    return table
