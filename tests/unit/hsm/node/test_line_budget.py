"""Bounded log lines."""

from __future__ import annotations

from hsm.node.line_budget import LineBudget, LineBudgets


def test_lines_over_the_budget_are_left_out_and_counted() -> None:
    budget = LineBudget(per_second=2)
    assert [budget.take(5.0) for _ in range(4)] == [0, 0, None, None]
    assert budget.take(5.99) is None
    assert budget.take(6.0) == 3
    assert budget.take(6.0) == 0
    assert budget.take(6.1) is None


def test_a_loud_source_drowns_no_other() -> None:
    budgets = LineBudgets(per_second=1)
    assert [budgets.take("loud", 5.0) for _ in range(3)] == [0, None, None]
    assert budgets.take("quiet", 5.0) == 0
    assert budgets.take("loud", 6.0) == 2


def test_sources_are_remembered_in_bounded_number() -> None:
    budgets = LineBudgets(per_second=1, max_sources=3)
    for number in range(100):
        assert budgets.take(f"client {number}", 5.0) == 0
    assert len(budgets._budgets) == 3
    assert budgets.take("client 99", 5.0) is None
