from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.run.cells import Family, Kind, Ledger, Snapshot, Spread, accumulated, merge

COUNTER = Family(name="c_total", help="", kind=Kind.COUNTER, labels=("a",))
SUM = Family(name="g", help="", kind=Kind.GAUGE_SUM)
LOW = Family(name="low", help="", kind=Kind.GAUGE_MIN, labels=("node",))
HIGH = Family(name="high", help="", kind=Kind.GAUGE_MAX)
SPREAD = Family(name="h_seconds", help="", kind=Kind.HISTOGRAM, bounds=(0.1, 1.0))
ALL = (COUNTER, SUM, LOW, HIGH, SPREAD)


def ledger(value: float) -> Ledger:
    new = Ledger()
    new.cells(COUNTER)["x",].value += value
    new.cells(SUM)[()].value = value
    new.cells(LOW)["n",].value = value
    new.cells(HIGH)[()].value = value
    new.spreads(SPREAD)[()].observe(value)
    return new


def test_numbers_of_processes_are_joined_by_their_kind() -> None:
    merged = merge(ALL, [ledger(1).snapshot(), ledger(3).snapshot()])
    assert merged.numbers == {"c_total": [(("x",), 4)], "g": [((), 4)], "low": [(("n",), 1)], "high": [((), 3)]}
    assert merged.histograms["h_seconds"][0][1].counts == [0, 1, 1]
    assert merged.histograms["h_seconds"][0][1].total == 4


def test_of_the_dead_only_what_accumulates_counts() -> None:
    merged = merge(ALL, [ledger(1).snapshot()], [ledger(5).snapshot()])
    assert merged.numbers == {"c_total": [(("x",), 6)], "g": [((), 1)], "low": [(("n",), 1)], "high": [((), 1)]}
    assert merged.histograms["h_seconds"][0][1].counts == [0, 1, 1]
    kept = accumulated(ALL, [ledger(5).snapshot(), ledger(1).snapshot()])
    assert kept.numbers == {"c_total": [(("x",), 6)]}
    assert kept.histograms["h_seconds"][0][1].total == 6


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (1.0, 1), (7.0, 2)])
def test_a_bound_belongs_to_its_bucket(value: float, bucket: int) -> None:
    spread = Spread((0.1, 1.0))
    spread.observe(value)
    assert spread.counts.index(1) == bucket


def test_a_snapshot_travels_and_does_not_change_afterwards() -> None:
    source = ledger(2)
    snapshot = source.snapshot()
    source.cells(COUNTER)["x",].value += 1
    source.spreads(SPREAD)[()].observe(1)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=Snapshot)
    assert merge(ALL, [again]).numbers["c_total"] == [(("x",), 2)]
    assert again == snapshot


def test_kinds_are_not_confused() -> None:
    with pytest.raises(ValueError, match="is a histogram"):
        Ledger().cells(SPREAD)
    with pytest.raises(ValueError, match="is no histogram"):
        Ledger().spreads(SUM)


def test_histograms_of_other_buckets_are_left_out() -> None:
    other = Ledger()
    other.spreads(Family(name="h_seconds", help="", kind=Kind.HISTOGRAM, bounds=(1.0,)))[()].observe(1)
    assert merge(ALL, [other.snapshot()]).histograms == {"h_seconds": []}


@given(st.lists(st.floats(0, 100), max_size=30), st.lists(st.floats(0, 100), max_size=30))
def test_merging_two_histograms_is_observing_everything_in_one(left: list[float], right: list[float]) -> None:
    ledgers = [Ledger(), Ledger(), Ledger()]
    for which, values in enumerate((left, right, left + right)):
        for value in values:
            ledgers[which].spreads(SPREAD)[()].observe(value)
    merged = merge([SPREAD], [ledgers[0].snapshot(), ledgers[1].snapshot()])
    whole = merge([SPREAD], [ledgers[2].snapshot()])
    assert [h.counts for _, h in merged.histograms["h_seconds"]] == [h.counts for _, h in whole.histograms["h_seconds"]]
