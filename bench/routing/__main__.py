"""`python -m bench.routing`: plays every scenario with every policy. `--cost` measures the router itself."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.routing.cost import measure_cost, print_cost
from bench.routing.scenarios import everything
from bench.routing.table import as_markdown, as_objects, play_all, print_tables
from proxy.run.process import tune_collector

TABLE = Path(__file__).with_name("TABLE.md")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller nodes and shorter runs.")] = False,
    only: Annotated[str, typer.Option(help="Scenarios whose names contain this.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One object on the last line.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the table to bench/routing/TABLE.md, too.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Only: microseconds of the router per decision.")] = False,
) -> None:
    """Play the router with simulated nodes, beside what peers do. Everything is seeded."""
    tune_collector()
    errors = Console(stderr=True)
    if cost:
        costs = measure_cost(jobs=5_000, runs=3) if quick else measure_cost()
        print_cost(costs, Console(width=120))
        if as_json:
            print(json.dumps({"cost": [row.as_object() for row in costs]}))
        return
    scenarios = [scenario for scenario in everything(quick=quick) if only in scenario.name]
    if not scenarios:
        raise typer.BadParameter(f"no scenario's name contains {only!r}; choose from {_names(quick=quick)}")
    rows = play_all(scenarios, lambda line: typer.echo(line, err=True))
    print_tables(rows, Console(width=200))
    if write:
        command = "python -m bench.routing" + (" --quick" if quick else "") + " --write"
        TABLE.write_text(as_markdown(rows, command))
    if as_json:
        print(json.dumps({"rows": as_objects(rows)}))
    gc.collect()
    if any(row.breaches for row in rows):
        errors.print("the router broke its word: see the breaches above", style="red")
        raise typer.Exit(1)


def _names(*, quick: bool) -> str:
    return ", ".join(scenario.name for scenario in everything(quick=quick))


if __name__ == "__main__":
    typer.run(main)
