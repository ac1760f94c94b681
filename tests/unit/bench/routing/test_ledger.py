"""Counting: spans, quantiles, shares."""

from __future__ import annotations

import pytest

from bench.routing.ledger import GOOD, LEFT, Ledger, quantile


def test_quantiles_are_values_that_were_there() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [quantile(values, share) for share in (0.5, 0.99, 0.999)] == [50.0, 99.0, 100.0]
    assert quantile([], 0.5) == 0.0
    assert quantile([7.0], 0.0) == 7.0


def test_a_summary_tells_sites_spans_and_ends_apart() -> None:
    ledger = Ledger(["a", "b"], ["n"])
    ledger.ended(0, 1.0, 0.1, GOOD)
    ledger.ended(0, 2.0, 0.3, "shed")
    ledger.ended(1, 2.5, 0.2, LEFT)
    ledger.ended(1, 9.0, 0.2, GOOD)
    whole = ledger.between()
    assert (whole.jobs, whole.good, whole.failed, whole.ends[LEFT]) == (4, 2, 1, 1)
    assert whole.good_share == pytest.approx(2 / 3)
    some = ledger.between(1.5, 9.0, ["a"])
    assert (some.jobs, some.good, some.fail_worst_s, some.p50_s) == (1, 0, 0.3, 0.0)
    assert ledger.good_per_s(0.0, 2.0) == 0.5
    assert ledger.good_per_s(9.0, 10.0) == 1.0


def test_extra_signatures_are_those_that_no_job_used() -> None:
    ledger = Ledger(["a"], ["n", "m"])
    for node in ("n", "m"):
        ledger.signed[node].append(0.5)
        ledger.sends[node].extend([0.1, 0.2])
    ledger.sends["n"].append(5.0)
    ledger.ended(0, 0.1, 0.4, GOOD)
    assert ledger.extra_signatures == 1
    assert ledger.extra_share(0.0, 1.0) == 1.0
    assert ledger.share_of("n", 0.0, 1.0) == 0.5
