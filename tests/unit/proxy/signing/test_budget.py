"""Extra attempts stay a share of the jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.signing.budget import ShareBudget


@given(st.floats(0, 1), st.floats(0, 20), st.floats(0, 30), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10))))
def test_extra_work_never_exceeds_its_share(
    share: float, burst: float, initial: float, steps: list[tuple[int, int]]
) -> None:
    budget, jobs, extra = ShareBudget(share, burst=burst, initial=initial), 0, 0
    for came, wanted in steps:
        for _ in range(came):
            budget.earn()
        jobs += came
        for _ in range(wanted):
            has_one = budget.has_one
            granted = budget.spend()
            assert granted is has_one
            extra += granted
        assert extra <= share * jobs + burst + 1e-9
        assert extra <= share * jobs + initial + 1e-9


def test_a_share_is_given_out_as_it_is_earned() -> None:
    budget, granted = ShareBudget(0.25, burst=10), 0
    for _ in range(1000):
        budget.earn()
        granted += budget.spend()
    assert granted == 250


def test_what_good_times_saved_is_bounded() -> None:
    budget = ShareBudget(0.5, burst=3)
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]


def test_no_share_grants_nothing_but_what_it_began_with() -> None:
    budget = ShareBudget(0.0, burst=5, initial=1)
    budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, False, False]
