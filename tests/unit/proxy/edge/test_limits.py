from __future__ import annotations

import pytest

from proxy.edge.limits import ConnectionBudget


def test_places_are_taken_up_to_the_limit_and_given_back() -> None:
    budget = ConnectionBudget(2)
    assert [budget.try_take() for _ in range(3)] == [True, True, False]
    assert budget.taken == 2
    budget.release()
    assert budget.try_take()


def test_a_place_that_was_not_taken_can_not_be_given_back() -> None:
    with pytest.raises(RuntimeError, match="twice"):
        ConnectionBudget(1).release()
