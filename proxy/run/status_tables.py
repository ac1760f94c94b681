"""`sealgate status` for people: one line about headroom, tables of workers and nodes. 100 columns are enough."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from proxy.run.status import Status

WIDTH = 100
"""Columns where nobody says how many there are: in pipes and files."""
NO_NODES = "there are no nodes"


def console() -> Console:
    """Where to print."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def print_tables(status: Status) -> None:
    """All of a status."""
    out = console()
    verdict = "[green]ready[/]" if status.ready else "[red]not ready[/]"
    out.print(f"sealgate {status.version}: {verdict}, {status.sessions.get('active', 0)} TLS sessions active")
    for reason in reason_lines(status.reasons):
        out.print(f"  {reason}", markup=False)
    for line in headroom_lines(status.headroom):
        out.print(line, markup=False)
    out.print(_workers_table(status.workers))
    _print_nodes(out, status.nodes)


def print_nodes(nodes: list[dict[str, Any]]) -> None:
    """The table of nodes alone."""
    _print_nodes(console(), nodes)


def reason_lines(reasons: list[str]) -> list[str]:
    """Each reason once, with all workers that have it."""
    who: dict[str, list[str]] = {}
    for reason in reasons:
        worker, colon, why = reason.partition(": ")
        who.setdefault(why if colon else reason, []).extend([worker] if colon else [])
    return [f"{', '.join(workers)}: {why}" if workers else why for why, workers in who.items()]


def headroom_lines(headroom: dict[str, Any]) -> list[str]:
    """How much is used of how much, whether a node may be lost, and why not."""
    if not headroom:  # of an older proxy
        return []
    capacity = "a capacity that is not known yet" if headroom["worst_loss"] else "0/s"
    if headroom["capacity_per_s"]:
        about = "" if headroom["basis"] == "configured" else "about "
        capacity = f"{about}{rounded(headroom['capacity_per_s'], headroom['basis'])}/s ({headroom['basis']})"
    safe = "yes" if headroom["n_minus_1_safe"] else "no"
    first = f"signing: {headroom['used_per_s']:.0f}/s used of {capacity}; safe if one node is lost: {safe}"
    return [first, *(f"  {reason}" for reason in headroom["reasons"])]


def rounded(capacity_per_s: float, basis: str) -> str:
    """A capacity; of an estimate no more digits than it is worth."""
    return f"{float(f'{capacity_per_s:.2g}') if basis == 'estimated' else capacity_per_s:.0f}"


def note_lines(nodes: list[dict[str, Any]]) -> list[str]:
    """Nodes that are not to sign, or that are treated otherwise than the config says, and why others do not sign."""
    return [line for node in nodes for line in _notes_of(node)]


def _notes_of(node: dict[str, Any]) -> list[str]:
    admin = node.get("admin", "enabled")
    notes = []
    if node.get("asked_at_run_time") or admin != "enabled":
        notes.append(f"{admin} ({'asked at run time' if node.get('asked_at_run_time') else 'by the config'})")
    for state in sorted({*node["states"].values()} - {"up", "draining", "disabled"}):
        at = [slot for slot, each in sorted(node["states"].items()) if each == state]
        where = "" if len(at) == len(node["states"]) else f" at {', '.join(at)}"
        why = EJECTED if state == "ejected" else node.get("last_error", "")
        notes.append(f"{state}{where}{f': {why}' if why else ''}")
    return [f"{node['name']}: {note}" for note in notes]


def node_row(node: dict[str, Any]) -> list[str]:
    """One node's cells; `COLUMNS` has their titles."""
    return [
        node["name"],
        node["address"],
        node.get("zone", ""),
        ", ".join(sorted(set(node["states"].values()))),
        f"{node['in_flight']}/{node.get('window', 0):.0f}",
        duration(node.get("latency_s", 0.0)),
        f"{node.get('rate_per_s', 0):.0f}/{_capacity(node)}",
        str(node["signatures"]),
        str(node["failures"]),
    ]


COLUMNS = ("node", "address", "zone", "state", "in flight", "latency", "per s", "signed", "failed")
ZONE = COLUMNS.index("zone")
LEGEND = "in flight: requests there/allowed; per s: signatures made/possible (~ estimated, ? unknown)"
EJECTED = "left out for a while, because too many of its answers were failures"


def duration(seconds: float) -> str:
    """0.00123 -> 1.2 ms; nothing where nothing is known."""
    if seconds <= 0:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _capacity(node: dict[str, Any]) -> str:
    capacity = node.get("capacity_per_s", 0.0)
    if not capacity:
        return "?"
    basis = node.get("basis", "")
    return f"{'~' if basis == 'estimated' else ''}{rounded(capacity, basis)}"


def _print_nodes(out: Console, nodes: list[dict[str, Any]]) -> None:
    if not nodes:
        out.print(NO_NODES)
        return
    rows = [node_row(node) for node in nodes]
    shown = [index for index in range(len(COLUMNS)) if index != ZONE or any(row[ZONE] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index in shown:
        table.add_column(COLUMNS[index], no_wrap=COLUMNS[index] not in ("address", "zone"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in shown))  # as a text, [fd00::1] would be markup
    out.print(table)
    out.print(LEGEND, style="dim", markup=False)
    for line in note_lines(nodes):
        out.print(line, markup=False)


def _workers_table(workers: list[dict[str, Any]]) -> Table:
    table = Table("worker", "pid", "generation", "state", "connections")
    for worker in workers:
        state = "draining" if worker["draining"] else "ready" if worker["ready"] else "not ready"
        table.add_row(worker["slot"], str(worker["pid"]), str(worker["generation"]), state, str(worker["connections"]))
    return table
