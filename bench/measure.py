"""What a measurement is: CPU time from /proc, pairs that alternate, medians and their spread."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; `ratio` is the median of the pairs' own ratios, `spread` half their range over the median."""

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    pairs: int
    spread: float
    note: str = ""


def tree(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree so far, dead and reaped children included."""
    total = 0.0
    for process in tree(pid):
        times = process.cpu_times()
        total += times.user + times.system
    root = psutil.Process(pid).cpu_times()
    return total + root.children_user + root.children_system


def pin(pid: int, core: int) -> None:
    """Binds every thread of a process tree to one core (and with them what they start later)."""
    for process in tree(pid):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def run_client(command: Sequence[str], timeout_s: float) -> str:
    """Runs a load generator on the client's core and returns its output."""
    done = subprocess.run(
        ["taskset", "-c", str(CLIENT_CORE), *command], capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def compare(
    name: str,
    unit: str,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    pairs: int,
    *,
    say: Callable[[str], None],
    note: str = "",
) -> Row:
    """Runs both sides in turn, `pairs` times, the order changing with each pair; a first pair warms up uncounted."""
    results: list[tuple[float, float]] = []
    for number in range(pairs + 1):
        if number % 2:
            b = theirs()
            a = ours()
        else:
            a = ours()
            b = theirs()
        say(f"  {name} {'warm-up' if number == 0 else f'pair {number}/{pairs}'}: {a:,.1f} / {b:,.1f} {unit}")
        if number:
            results.append((a, b))
    ratios = [a / b for a, b in results]
    ratio = statistics.median(ratios)
    return Row(
        name=name,
        ours=round(statistics.median(a for a, _ in results), 2),
        theirs=round(statistics.median(b for _, b in results), 2),
        unit=unit,
        ratio=round(ratio, 3),
        pairs=pairs,
        spread=round((max(ratios) - min(ratios)) / 2 / ratio, 3),
        note=note,
    )


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Writes these rows to the results file; rows of other names stay in it, so that a part can be measured anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = {row.name: asdict(row) for row in rows}
    old = {row["name"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(list({**old, **new}.values()), indent=1) + "\n")
    part.replace(path)
