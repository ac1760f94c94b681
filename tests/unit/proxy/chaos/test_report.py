"""The JSON object: its form, and that it tells what the rows say."""

from __future__ import annotations

import json
from dataclasses import replace

from proxy.chaos.faults import FAULTS
from proxy.chaos.judge import Timeouts
from proxy.chaos.report import Report, Row, healthy_site_row, row_of, stricken_site_row, to_json
from tests.unit.proxy.chaos.test_judge import DOWN, GOOD, TIMEOUTS, WELL

BAD = replace(GOOD, during=replace(WELL, failed=2), errors={"reset": 2})


def report_of(*rows: Row) -> Report:
    return Report("faults", rows, 3, 216.0, 360.0, 0.6, 1, Timeouts(1.0, 5.0), 12.34)


def test_the_object_is_one_line_and_names_every_fault() -> None:
    report = report_of(row_of(FAULTS["kill"], GOOD, TIMEOUTS), row_of(FAULTS["all-down"], DOWN, TIMEOUTS))
    text = to_json(report)
    found = json.loads(text)
    assert "\n" not in text
    assert {"ok": True, "nodes": 3, "rate_per_s": 216.0, "load": 0.6, "took_s": 12.3}.items() <= found.items()
    assert [(fault["name"], fault["failed"], fault["ok"]) for fault in found["faults"]] == [
        ("kill", 0, True),
        ("all-down", 0, True),
    ]
    kill, down = found["faults"]
    assert kill["offered"] == kill["done"] == 3000
    assert kill["before"] == {
        "offered": 1000, "failed": 0, "p50_ms": 50.0, "p99_ms": 100.0, "p999_ms": 120.0, "max_ms": 130.0
    }  # fmt: skip
    assert (kill["time_to_eject_s"], kill["time_to_full_share_s"], kill["extra_signatures"]) == (0.2, 1.0, 0)
    assert (down["during"]["failed"], down["longest_failure_s"], down["recovery_s"]) == (900, 1.1, 0.5)


def test_one_bad_fault_makes_the_whole_bad() -> None:
    report = report_of(row_of(FAULTS["kill"], GOOD, TIMEOUTS), row_of(FAULTS["flap"], BAD, TIMEOUTS))
    found = json.loads(to_json(report))
    assert (found["ok"], report.is_good) == (False, False)
    flap = found["faults"][1]
    assert (flap["failed"], flap["done"], flap["errors"]) == (2, 2998, {"reset": 2})
    assert flap["problems"] == ["handshakes failed: 2 during (reset)"]


def test_a_run_of_nothing_is_not_good() -> None:
    assert not report_of().is_good


def test_the_stricken_site_is_shown_and_only_the_healthy_one_judged() -> None:
    healthy, stricken = healthy_site_row("a.org", "x", GOOD), stricken_site_row("b.org", "y", BAD)
    assert report_of(healthy, stricken).is_good
    assert (healthy.failed, healthy.p99_limit_ms, healthy.is_judged) == (0, 120.0, True)
    assert not stricken.is_judged
    assert not report_of(healthy_site_row("a.org", "x", BAD), stricken).is_good
