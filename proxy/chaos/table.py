"""The report for people: three lines per fault, what is wrong below, and how to read it."""

from __future__ import annotations

from rich.box import HORIZONTALS
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from proxy.chaos.figures import FaultFigures, Spread
from proxy.chaos.report import Report, Row

WIDTH = 128
"""Where no terminal says how wide it is."""
WIDE_FROM = 126
"""Columns from which on everything is in one table; in fewer, what the router did stands below it."""
_ROUTER = "what the router did"
_GOOD = "Good: 0 failed, a p99 within its limit, and a node that comes back to a full share of the jobs."
_ALL_DOWN = (
    "With all nodes down handshakes must fail: good is that each fails soon, none before or after, and that the first "
    "node's return is felt within 2 s."
)
_WORDS = (
    (
        "before, during, after",
        "during: handshakes under way at any time while the fault was on. All latencies in ms since a handshake was "
        "due, whether or not others had ended",
    ),
    ("out after", "from the fault until the node gets no more jobs, as long as it lasts"),
    ("full share after", "from the end of the fault until the node gets 80 % of its fair share again"),
    (
        "extra, queue",
        "signatures asked for beyond one per handshake; the most jobs that waited for a node at once",
    ),
)
_MORE = "docs/chaos.md defines every figure."


def render(report: Report, width: int = WIDTH) -> Group:
    """The whole report, for so many columns (80 are enough)."""
    is_wide = width >= WIDE_FROM
    padding = (0, 1) if is_wide else (0, 1, 0, 0)
    table = Table(expand=False, pad_edge=False, padding=padding, box=HORIZONTALS)
    for column in ("fault", "phase"):
        table.add_column(column, no_wrap=True)
    for column in ("offered", "failed", "p50 ms", "p99 ms", "limit", "p99.9", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    if is_wide:
        table.add_column(_ROUTER)
    for row in report.rows:
        _add(table, row, is_wide=is_wide)
    parts: list[RenderableType] = [Text(_title(report), "italic"), table]
    if not is_wide:
        parts += [Text(f"{_ROUTER[0].upper()}{_ROUTER[1:]}"), _router_list(report)]
    parts += _legend(report)
    for row in report.rows:
        parts += [Text(f"BAD   {row.name}: {problem}", "bold red") for problem in row.problems]
    return Group(*parts, *_note(report), _verdict(report))


def _legend(report: Report) -> list[RenderableType]:
    words = Table.grid(padding=(0, 2, 0, 0))
    words.add_column(no_wrap=True, style="dim")
    words.add_column(style="dim")
    for name, meaning in _WORDS:
        words.add_row(name, meaning)
    good = _GOOD if all(row.figures.recovery_s is None for row in report.rows) else f"{_GOOD} {_ALL_DOWN}"
    return [Text(good, "dim"), words, Text(_MORE, "dim")]


def _router_list(report: Report) -> Table:
    listed = Table.grid(padding=(0, 2, 0, 0))
    listed.add_column(no_wrap=True)
    for row in report.rows:
        listed.add_row(Text(row.name, "bold"), "; ".join(_router_words(row.figures)))
    return listed


def _note(report: Report) -> list[Text]:
    """One line for all rows that the machine itself disturbed; the JSON has the figures of each."""
    disturbed = [row for row in report.rows if row.remarks]
    if not disturbed:
        return []
    busiest = max(row.figures.cpu_busy for row in disturbed)
    late = max(row.figures.generator_late for row in disturbed)
    return [
        Text(
            f"NOTE  {', '.join(row.name for row in disturbed)}: the machine itself was at its end (CPU up to "
            f"{busiest * 100:.0f} %, up to {late:,} handshakes begun late). Latencies are partly its own; run these "
            "again on a quieter machine.",
            "yellow",
        )
    ]


def _title(report: Report) -> str:
    return (
        f"{report.nodes} simulated HSM nodes, {report.capacity_per_s:g} signatures/s together; "
        f"{report.rate_per_s:g} full handshakes/s ({report.load * 100:.0f} %)"
    )


def _verdict(report: Report) -> Text:
    bad = sum(not row.is_good for row in report.rows)
    judged = sum(row.is_judged for row in report.rows)
    if not bad:
        return Text(f"OK: {judged} of {judged} were borne, in {report.took_s:.0f} s.", "bold green")
    return Text(f"NOT OK: {bad} of {judged} were not borne as they should be; see BAD above.", "bold red")


def _add(table: Table, row: Row, *, is_wide: bool) -> None:
    figures, words = row.figures, _router_words(row.figures)
    verdict = Text("not judged", "dim") if not row.is_judged else _good_or_bad(row)
    names = (Text(row.name, "bold"), verdict, Text(_names(figures.nodes), "dim"))
    limits = ("", _number(row.p99_limit_ms), "")
    phases = (("before", figures.before), ("during", figures.during), ("after", figures.after))
    for number, (phase, spread) in enumerate(phases):
        cells = _cells(spread, limits[number])
        last = (words[number],) if is_wide else ()
        table.add_row(names[number], phase, *cells, *last, end_section=number == len(phases) - 1)


def _names(nodes: tuple[str, ...]) -> str:
    return ", ".join(nodes) if len(nodes) < 2 else f"all {len(nodes)} nodes"


def _good_or_bad(row: Row) -> Text:
    return Text("OK", "green") if row.is_good else Text("BAD", "bold red")


def _cells(spread: Spread, limit: str) -> list[RenderableType]:
    failed = Text(f"{spread.failed:,}", "bold red" if spread.failed else "")
    latencies = [_number(value) for value in (spread.p50_ms, spread.p99_ms, spread.p999_ms, spread.max_ms)]
    return [f"{spread.offered:,}", failed, latencies[0], latencies[1], limit, *latencies[2:]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _router_words(figures: FaultFigures) -> tuple[str, str, str]:
    out, back = figures.time_to_eject_s, figures.time_to_full_share_s
    share = "" if figures.share_during is None else f", {figures.share_during * 100:.1f} % of jobs"
    first = f"out after {out:.1f} s{share}" if out is not None else f"stayed in{share}"
    if figures.recovery_s is not None:
        first = f"recovery {figures.recovery_s:.2f} s, failures within {figures.longest_failure_s or 0:.1f} s"
    second = f"full share after {back:.1f} s" if back is not None else "no full share again"
    part = figures.extra_signatures / figures.jobs * 100 if figures.jobs else 0.0
    third = f"extra {figures.extra_signatures:,} ({part:.1f} %), queue {figures.peak_waiting:,}"
    return first, second, third
