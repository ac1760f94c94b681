"""Tables: every scenario and policy in them, for people and machines."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench.routing.cost import measure_cost, print_cost
from bench.routing.policies import OURS
from bench.routing.scenarios import HSM1, P256, saturation
from bench.routing.table import as_markdown, as_objects, play_all, print_tables


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


def test_rows_tell_what_was_played(said: list[str]) -> None:
    scenario = saturation(HSM1, P256, 0.5, seconds=3.0)
    rows = play_all([scenario], said.append)
    assert [row.policy for row in rows] == ["round robin", "least outstanding", OURS.name]
    assert len(said) == 3
    page = as_markdown(rows, "a command")
    out = io.StringIO()
    print_tables(rows, Console(file=out, width=200))
    for policy in ("round robin", "least outstanding", OURS.name):
        assert policy in page
        assert policy in out.getvalue()
    assert json.loads(json.dumps(as_objects(rows)))[0]["good_share"] == 1.0


def test_the_cost_of_a_decision_is_measured() -> None:
    costs = measure_cost(jobs=200, runs=1)
    assert {(cost.nodes, cost.best_us > 0) for cost in costs} == {(3, True), (64, True)}
    out = io.StringIO()
    print_cost(costs, Console(file=out, width=120))
    assert "twice the capacity" in out.getvalue()
