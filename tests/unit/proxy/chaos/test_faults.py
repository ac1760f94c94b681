"""The list of faults: what must be among them, in which order, and that each can be brought about."""

from __future__ import annotations

from proxy.chaos.acts import ACTS
from proxy.chaos.faults import FAULTS, Limit


def test_every_kind_of_fault_is_there_and_has_an_act() -> None:
    wanted = ["kill", "hang", "slow", "flap", "error", "wrong-signature", "lost-key", "reset", "half-open", "all-down"]
    assert [name for name in FAULTS if name in wanted] == wanted
    assert list(ACTS) == list(FAULTS)
    assert all(plan.name == name and plan.what for name, plan in FAULTS.items())


def test_only_all_down_hits_all_and_it_comes_last() -> None:
    assert [name for name, plan in FAULTS.items() if plan.hits_all] == ["all-down"] == [list(FAULTS)[-1]]


def test_what_answers_is_judged_harder_than_what_is_silent() -> None:
    assert {FAULTS[name].limit for name in ("kill", "error", "wrong-signature", "lost-key", "reset")} == {Limit.TWICE}
    assert {FAULTS[name].limit for name in ("hang", "freeze", "half-open")} == {Limit.ATTEMPT}
