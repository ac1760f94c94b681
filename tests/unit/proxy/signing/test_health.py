"""Health of a node, told as lists of facts."""

from __future__ import annotations

import pytest

from proxy.base.observe import NodeState
from proxy.signing.health import RISE_AFTER_WRONG, NodeHealth

UP, DOWN, DRAINING, CONNECTING = NodeState.UP, NodeState.DOWN, NodeState.DRAINING, NodeState.CONNECTING


def linked(*, rise: int = 1, fall: int = 2) -> NodeHealth:
    health = NodeHealth(rise=rise, fall=fall)
    health.link_opened()
    return health


@pytest.mark.parametrize(
    ("rise", "fall", "probes", "states"),
    [
        (1, 2, [True], [UP]),
        (3, 2, [True, True, True], [CONNECTING, CONNECTING, UP]),
        (2, 2, [True, False, True, True], [CONNECTING, CONNECTING, CONNECTING, UP]),
        (1, 2, [True, False, True, False, False], [UP, UP, UP, UP, DOWN]),
        (2, 1, [True, True, False, True, True], [CONNECTING, UP, DOWN, DOWN, UP]),
        (1, 2, [False, False], [CONNECTING, DOWN]),
    ],
)
def test_consecutive_probes_flip_the_state(rise: int, fall: int, probes: list[bool], states: list[NodeState]) -> None:
    health = linked(rise=rise, fall=fall)
    seen = []
    for is_good in probes:
        before = health.state
        assert health.probed(is_good=is_good) is (health.state is not before)
        seen.append(health.state)
    assert seen == states


def test_a_node_is_connecting_until_a_link_was_refused() -> None:
    health = NodeHealth(rise=1, fall=1)
    assert health.state is CONNECTING
    assert health.connect_failed()
    assert health.state is DOWN
    assert not health.connect_failed()


def test_a_new_link_has_to_prove_itself_again() -> None:
    health = linked()
    health.probed(is_good=True)
    assert health.link_lost()
    assert health.state is DOWN
    assert health.link_opened()
    assert health.state is CONNECTING
    health.probed(is_good=True)
    assert health.state is UP


def test_one_of_two_links_is_enough() -> None:
    health = linked()
    health.link_opened()
    health.probed(is_good=True)
    assert not health.link_lost()
    assert not health.connect_failed()
    assert health.state is UP


def test_draining_lasts_as_long_as_the_link() -> None:
    health = linked()
    health.probed(is_good=True)
    assert health.drain_announced()
    health.probed(is_good=True)
    assert health.state is DRAINING
    health.link_lost()
    assert health.state is DOWN
    health.link_opened()
    assert not health.is_draining


@pytest.mark.parametrize(("rise", "needed"), [(1, RISE_AFTER_WRONG), (5, 5)])
def test_one_wrong_signature_takes_a_node_out_until_it_has_proven_itself(rise: int, needed: int) -> None:
    health = linked(rise=rise, fall=10)
    for _ in range(rise):
        health.probed(is_good=True)
    assert health.signed_wrongly()
    assert not health.signed_wrongly()
    for _ in range(needed - 1):
        assert not health.probed(is_good=True)
        assert (health.state, health.is_distrusted) == (DOWN, True)
    assert health.probed(is_good=True)
    assert (health.state, health.is_distrusted) == (UP, False)
    health.link_lost()
    health.link_opened()
    for _ in range(rise):
        health.probed(is_good=True)
    assert health.state is UP


def test_good_probes_count_from_the_last_wrong_signature() -> None:
    health = linked()
    health.signed_wrongly()
    for event in (True, True, False, True, True):
        health.probed(is_good=event)
    health.signed_wrongly()
    for _ in range(RISE_AFTER_WRONG - 1):
        health.probed(is_good=True)
    assert health.state is DOWN


def test_a_new_link_does_not_make_up_for_a_wrong_signature() -> None:
    health = linked()
    health.signed_wrongly()
    health.link_lost()
    health.link_opened()
    assert health.state is CONNECTING
    health.probed(is_good=True)
    assert health.state is CONNECTING
    for _ in range(RISE_AFTER_WRONG - 1):
        health.probed(is_good=True)
    assert health.state is UP
