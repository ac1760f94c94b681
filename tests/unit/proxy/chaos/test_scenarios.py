"""Who gets which fault."""

from __future__ import annotations

from proxy.chaos.faults import FAULTS
from proxy.chaos.scenarios import assigned


def test_nodes_take_turns_and_all_down_is_for_all() -> None:
    plans = [FAULTS[name] for name in ("kill", "hang", "slow", "error", "all-down")]
    assert [nodes for _, nodes in assigned(plans, ["a", "b", "c"])] == [("a",), ("b",), ("c",), ("a",), ("a", "b", "c")]
