"""`sealgate chaos`: break a cluster of simulated HSMs in every way there is, and say what clients felt."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.chaos.faults import FAULTS

if TYPE_CHECKING:
    from proxy.chaos.play import ChaosSpec
    from proxy.chaos.report import Report

EXIT_BAD = 1
EXIT_INTERRUPTED = 130


class Scenario(StrEnum):
    """What is played."""

    FAULTS = "faults"
    TWO_SITES = "two-sites"


def chaos(
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME", help=f"Only this one; may be repeated. Names: {', '.join(FAULTS)}."),
    ] = None,
    scenario: Annotated[
        Scenario,
        typer.Option(help="faults: one after another. two-sites: a site whose only node hangs, beside a healthy one."),
    ] = Scenario.FAULTS,
    nodes: Annotated[int, typer.Option(min=2, max=16, help="HSM nodes.")] = 3,
    rate_per_node: Annotated[
        float, typer.Option(min=1, max=10_000, help="Signatures per second that each node can make.")
    ] = 120.0,
    load: Annotated[
        float, typer.Option(min=0.01, max=3, help="Handshakes, as a share of what all nodes together can sign.")
    ] = 0.6,
    before: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds watched before each fault.")] = 4.0,
    during: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds that each fault lasts.")] = 5.0,
    after: Annotated[float, typer.Option(min=0.5, max=600, help="Seconds watched after each fault, at least.")] = 3.0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes of the proxy.")] = 1,
    directory: Annotated[
        Path | None, typer.Option("--dir", help=r"Folder for keys, configs, logs. \[default: a temporary one]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on the last line, for programs.")] = False,
) -> None:
    """Break simulated HSM nodes under load, and measure what clients felt.

    Starts a cluster of its own on this machine. Exits with 0 when no fault was felt more than it may be, else with 1.
    """
    unknown = [name for name in fault or () if name not in FAULTS]
    if unknown:
        raise typer.BadParameter(f"there is no fault {unknown[0]!r}; choose from {', '.join(FAULTS)}")
    if fault and scenario is Scenario.TWO_SITES:
        raise typer.BadParameter("--scenario two-sites has a fault of its own; leave --fault out")
    from proxy.chaos.play import ChaosSpec

    plans = tuple(FAULTS[name] for name in dict.fromkeys(fault or FAULTS))
    with tempfile.TemporaryDirectory(prefix="sealgate-chaos-") as temporary:
        place = (directory or Path(temporary)).absolute()
        spec = ChaosSpec(place, plans, nodes, rate_per_node, load, before, during, after, workers)
        report = _run(spec, scenario)
    _show(report, as_json=as_json)
    raise typer.Exit(0 if report.is_good else EXIT_BAD)


def _run(spec: ChaosSpec, scenario: Scenario) -> Report:
    from hsm.cli.management_client import ManagementProblem
    from proxy.chaos.scenarios import play_faults, play_two_sites
    from proxy.demo.cli import claimed
    from proxy.demo.processes import ProgramError

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _interrupt(stop))
    try:
        with claimed(spec.directory):
            return (play_two_sites if scenario is Scenario.TWO_SITES else play_faults)(spec, _say)
    except (ProgramError, ManagementProblem, OSError) as error:
        _say(f"Chaos could not be played. {error}")
        raise typer.Exit(EXIT_BAD) from None
    except KeyboardInterrupt:
        _say("Interrupted; everything is stopped.")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _interrupt(stop: threading.Event) -> None:
    """The first Ctrl-C ends the play; further ones do not disturb its tidying up."""
    if not stop.is_set():
        stop.set()
        raise KeyboardInterrupt


_BEGIN = time.monotonic()


def _say(text: str) -> None:
    typer.echo(f"{time.monotonic() - _BEGIN:6.1f} s  {text}", err=True)


def _show(report: Report, *, as_json: bool) -> None:
    from rich.console import Console

    from proxy.chaos.report import to_json
    from proxy.chaos.table import WIDTH, render

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(render(report, console.width), highlight=False)
    if as_json:
        typer.echo(to_json(report))
