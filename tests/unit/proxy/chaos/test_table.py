"""The table for people, read as text."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from proxy.chaos.faults import FAULTS
from proxy.chaos.report import Report, row_of, stricken_site_row
from proxy.chaos.table import WIDTH, render
from tests.unit.proxy.chaos.test_judge import DOWN, GOOD, TIMEOUTS, WELL
from tests.unit.proxy.chaos.test_report import BAD, report_of


def text_of(report: Report, width: int = WIDTH) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(render(report, width), highlight=False)
    return capture.get()


def test_every_fault_has_its_phases_and_figures_and_the_whole_a_verdict() -> None:
    text = text_of(report_of(row_of(FAULTS["kill"], GOOD, TIMEOUTS), row_of(FAULTS["all-down"], DOWN, TIMEOUTS)))
    lines = text.splitlines()
    (kill,) = [number for number, line in enumerate(lines) if line.strip().startswith("kill")]
    assert lines[kill].split()[1:7] == ["before", "1,000", "0", "50", "100", "120"]
    assert lines[kill + 1].split()[:7] == ["OK", "during", "1,000", "0", "50", "100", "200"]
    assert lines[kill + 2].split()[:2] == ["node-1", "after"]
    assert "out after 0.2 s" in lines[kill]
    assert "full share after 1.0 s" in lines[kill + 1]
    assert "recovery 0.50 s, failures within 1.1 s" in text
    assert "3 simulated HSM nodes, 360 signatures/s together; 216 full handshakes/s (60 %)" in text
    assert "OK: 2 of 2 were borne, in 12 s." in text


def test_what_is_bad_is_said_in_words() -> None:
    late = replace(BAD, generator_late=900, time_to_eject_s=None, share_during=0.031)
    text = text_of(report_of(row_of(FAULTS["flap"], late, TIMEOUTS), row_of(FAULTS["kill"], GOOD, TIMEOUTS)))
    assert "BAD   flap: handshakes failed: 2 during (reset)" in text
    assert "NOTE  flap: the machine itself was at its end (CPU up to 0 %, up to 900 handshakes begun late)" in text
    assert "stayed in, 3.1 % of jobs" in text
    assert "NOT OK: 1 of 2 were not borne" in text


def test_nobody_is_blamed_for_what_is_not_judged() -> None:
    rows = (row_of(FAULTS["kill"], GOOD, TIMEOUTS), stricken_site_row("b.org", "y", replace(BAD, after=WELL)))
    text = text_of(report_of(*rows))
    assert "not judged" in text
    assert "OK: 1 of 1 were borne" in text
    assert "NOTE" not in text


def test_a_phase_without_a_good_handshake_has_no_latencies() -> None:
    dead = replace(WELL, p50_ms=None, p99_ms=None, p999_ms=None, max_ms=None, failed=1000)
    text = text_of(report_of(row_of(FAULTS["kill"], replace(GOOD, during=dead, time_to_full_share_s=None), TIMEOUTS)))
    assert "no full share again" in text
    assert "did not come back" in text


def test_eighty_columns_are_enough() -> None:
    slow = replace(GOOD, during=replace(WELL, p99_ms=1180.4, max_ms=12345.6))
    report = report_of(row_of(FAULTS["wrong-signature"], slow, TIMEOUTS), row_of(FAULTS["all-down"], DOWN, TIMEOUTS))
    lines = text_of(report, 80).splitlines()
    assert max(len(line) for line in lines) <= 80
    row = next(line for line in lines if "during" in line and "1,180" in line)
    assert row.split()[:2] == ["BAD", "during"]
    assert row.split()[-1] == "12,346"
    assert not [line for line in lines if "\u2026" in line], "something is cut off"
    below = "\n".join(lines[lines.index("What the router did") :])
    assert "wrong-signature  out after 0.2 s" in below
    assert "all-down         recovery 0.50 s, failures within 1.1 s; full share after" in below


def test_failures_while_all_nodes_are_down_are_explained() -> None:
    down = text_of(report_of(row_of(FAULTS["all-down"], DOWN, TIMEOUTS)))
    assert "With all nodes down handshakes must fail" in " ".join(down.split())
    assert "With all nodes down" not in text_of(report_of(row_of(FAULTS["kill"], GOOD, TIMEOUTS)))
