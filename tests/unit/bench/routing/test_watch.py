"""What links and probes make of a node."""

from __future__ import annotations

from bench.routing.watch import RISE_AFTER_WRONG, Watch
from hsm.wire.schemes import KeyFamily

EC, RSA = KeyFamily.EC, KeyFamily.RSA


def watch() -> Watch:
    made = Watch([EC, RSA], rise=1, fall=2)
    made.link(is_open=True)
    return made


def test_a_link_must_be_proven() -> None:
    node = watch()
    assert not node.facts.is_usable
    node.probed(EC, is_good=True)
    assert node.facts.is_usable
    node.link(is_open=False)
    assert not node.facts.is_usable


def test_a_family_that_fails_is_out_alone() -> None:
    node = watch()
    for family in (EC, RSA):
        node.probed(family, is_good=True)
    node.probed(RSA, is_good=False)
    assert node.facts.failing == frozenset()
    node.probed(RSA, is_good=False)
    assert (node.facts.is_usable, node.facts.failing) == (True, frozenset({RSA}))


def test_who_signed_wrongly_needs_more_proof() -> None:
    node = watch()
    node.probed(EC, is_good=True)
    node.signed_wrongly()
    for _ in range(RISE_AFTER_WRONG - 1):
        node.probed(EC, is_good=True)
        assert not node.facts.is_usable
    node.probed(EC, is_good=True)
    assert node.facts.is_usable
