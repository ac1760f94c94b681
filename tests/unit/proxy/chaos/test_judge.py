"""The verdict: each threshold from both sides."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from proxy.chaos.faults import FAULTS
from proxy.chaos.figures import FaultFigures, Spread
from proxy.chaos.judge import Timeouts, judge, judge_sites, p99_limit_ms, remarks, unexpected_failures

TIMEOUTS = Timeouts(attempt_s=1.0, job_s=5.0)
WELL = Spread(1000, 0, 50.0, 100.0, 120.0, 130.0)
GOOD = FaultFigures(
    name="kill",
    nodes=("node-1",),
    before=WELL,
    during=WELL,
    after=WELL,
    time_to_eject_s=0.2,
    time_to_full_share_s=1.0,
    jobs=2000,
)
DOWN = replace(
    GOOD,
    name="all-down",
    during=Spread(1000, 900, 50.0, 100.0, 120.0, 130.0),
    longest_failure_s=1.1,
    recovery_s=0.5,
    errors={"TLS: alert": 900},
)


@pytest.mark.parametrize("name", [name for name, plan in FAULTS.items() if not plan.hits_all])
def test_a_fault_that_nobody_felt_is_good_and_one_failed_handshake_is_not(name: str) -> None:
    assert judge(FAULTS[name], GOOD, TIMEOUTS) == ()
    for phase in ("before", "during", "after"):
        felt = replace(GOOD, errors={"reset": 1}, **{phase: replace(WELL, failed=1)})  # type: ignore[arg-type]
        assert judge(FAULTS[name], felt, TIMEOUTS) == (f"handshakes failed: 1 {phase} (reset)",)
        assert unexpected_failures(FAULTS[name], felt) == 1


@pytest.mark.parametrize(
    ("name", "limit"),
    [("kill", 200), ("error", 200), ("wrong-signature", 200), ("lost-key", 200), ("reset", 200), ("hang", 1100),
     ("half-open", 1100), ("slow", None), ("flap", None)],
)  # fmt: skip
def test_the_limit_of_the_p99_is_that_of_the_fault(name: str, limit: float | None) -> None:
    assert p99_limit_ms(FAULTS[name], GOOD, TIMEOUTS) == limit
    if limit is None:
        assert judge(FAULTS[name], replace(GOOD, during=replace(WELL, p99_ms=9999.0)), TIMEOUTS) == ()
        return
    assert judge(FAULTS[name], replace(GOOD, during=replace(WELL, p99_ms=limit)), TIMEOUTS) == ()
    (problem,) = judge(FAULTS[name], replace(GOOD, during=replace(WELL, p99_ms=limit + 1)), TIMEOUTS)
    assert f"at most {limit:,} ms" in problem


def test_what_the_proxy_says_of_failures_is_passed_on() -> None:
    felt = replace(GOOD, during=replace(WELL, failed=1), errors={"reset": 1}, reasons={"signature shed": 1})
    assert judge(FAULTS["kill"], felt, TIMEOUTS) == (
        "handshakes failed: 1 during (reset; the proxy says: signature shed 1)",
    )


def test_a_node_has_to_come_back() -> None:
    (problem,) = judge(FAULTS["kill"], replace(GOOD, time_to_full_share_s=None), TIMEOUTS)
    assert problem == "node-1 did not come back to a full share"


def test_without_handshakes_nothing_was_borne() -> None:
    none = replace(GOOD, before=Spread(0, 0), during=Spread(0, 0))
    assert judge(FAULTS["kill"], none, TIMEOUTS) == (
        "no handshake was made before the fault",
        "no handshake was made during the fault",
    )


def test_with_all_nodes_down_handshakes_fail_and_that_is_expected() -> None:
    assert judge(FAULTS["all-down"], DOWN, TIMEOUTS) == ()
    assert unexpected_failures(FAULTS["all-down"], DOWN) == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"after": replace(WELL, failed=3)}, r"3 handshakes failed before or after \(TLS: alert\)"),
        ({"during": WELL}, "not really down"),
        ({"longest_failure_s": 5.6}, r"took 5.6 s; at most 5.5 s"),
        ({"recovery_s": 2.0}, r"recovery took 2.0 s; less than 2 s"),
        ({"recovery_s": None}, "no handshake was good after"),
    ],
)
def test_all_down_has_limits_of_its_own(change: dict[str, object], problem: str) -> None:
    found = judge(FAULTS["all-down"], replace(DOWN, **change), TIMEOUTS)  # type: ignore[arg-type]
    assert len(found) == 1
    assert re.search(problem, found[0])


@pytest.mark.parametrize(
    ("p99", "is_good"), [(100.0, True), (119.9, True), (81.0, True), (120.0, False), (80.0, False)]
)
def test_the_healthy_site_may_move_by_less_than_a_fifth(p99: float, is_good: bool) -> None:
    assert (judge_sites(replace(GOOD, during=replace(WELL, p99_ms=p99))) == ()) is is_good


def test_the_healthy_site_may_not_fail_or_vanish() -> None:
    assert judge_sites(replace(GOOD, during=replace(WELL, failed=2), errors={"no": 2})) == (
        "handshakes failed: 2 during (no)",
    )
    assert judge_sites(replace(GOOD, during=Spread(0, 0))) == ("no handshake was good before or during the fault",)


def test_a_row_says_when_the_machine_or_the_load_was_at_its_end() -> None:
    assert remarks(replace(GOOD, generator_late=60, cpu_busy=0.89)) == ()
    (late,) = remarks(replace(GOOD, generator_late=61))
    assert "61 of 3000 handshakes late" in late
    (busy,) = remarks(replace(GOOD, cpu_busy=0.91))
    assert "91 % in use" in busy
