"""Bounded log lines."""

from __future__ import annotations

from hsm.node.line_budget import LineBudget


def test_lines_over_the_budget_are_left_out_and_counted() -> None:
    budget = LineBudget(per_second=2)
    assert [budget.take(5.0) for _ in range(4)] == [0, 0, None, None]
    assert budget.take(5.99) is None
    assert budget.take(6.0) == 3
    assert budget.take(6.0) == 0
    assert budget.take(6.1) is None
