"""`make bench`: every comparison, a table for people, rows for machines in bench/results/latest.json."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.handshakes import handshake_cost, rate_with_slow_signatures
from bench.measure import Row, write_rows
from bench.nodes import node_rates
from bench.requests import request_cost

RESULTS = Path(__file__).with_name("results") / "latest.json"
GOALS = {
    "handshake-p256-tls13": "at most 1.5",
    "handshake-rsa2048-tls13": "at most 0.9",
    "handshake-rate-20ms": "at least 0.9",
    "http1-keepalive-small": "at most 2",
    "http1-bulk-download": "at least 0.8",
    "node-vault-p256": "at least 0.4",
    "node-vault-rsa2048": "at least 0.9",
    "node-softhsm-p256": "at least 0.4",
    "node-softhsm-rsa2048": "at least 0.9",
}


def main(
    pairs: Annotated[int, typer.Option(min=1, help="Counted pairs per comparison.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of one run.")] = 2.0,
    only: Annotated[str, typer.Option(help="handshakes, rate, requests or nodes; empty for all.")] = "",
    out: Annotated[Path, typer.Option(help="Where the rows go.")] = RESULTS,
    tls12: Annotated[bool, typer.Option("--tls12", help="Measure handshakes of TLS 1.2, too.")] = False,
) -> None:
    """Measure Sealgate beside nginx, and its nodes beside what they sign with. Needs two cores: one for the servers."""
    console = Console(stderr=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="sealgate-bench-") as temporary:
        folder = Path(temporary)
        if only in ("", "handshakes"):
            rows += handshake_cost(folder, pairs, seconds, console.log, ("1.3", "1.2") if tls12 else ("1.3",))
        if only in ("", "rate"):
            rows += rate_with_slow_signatures(folder, pairs, seconds, console.log)
        if only in ("", "requests"):
            rows += request_cost(folder, pairs, seconds, console.log)
        if only in ("", "nodes"):
            rows += node_rates(folder, pairs, seconds, console.log)
    write_rows(rows, out)
    print_table(rows)


def print_table(rows: list[Row]) -> None:
    """The comparison for people."""
    table = Table(title="Sealgate beside nginx, nodes beside raw signatures (on one core, medians of pairs)")
    for column in ("name", "ours", "theirs", "unit", "ratio", "goal", "pairs", "spread"):
        table.add_column(column, justify="left" if column in ("name", "unit", "goal") else "right")
    for row in rows:
        goal = GOALS.get(row.name, "")
        table.add_row(row.name, f"{row.ours:,.1f}", f"{row.theirs:,.1f}", row.unit, f"{row.ratio:.2f}", goal,
                      str(row.pairs), f"{row.spread:.0%}")  # fmt: skip
    console = Console(width=140)
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
