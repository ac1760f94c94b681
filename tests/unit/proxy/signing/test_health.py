"""Health of a node, told as lists of facts; at the end a machine that compares it with its history read anew."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsm.wire.schemes import KeyFamily
from proxy.base.observe import NodeState
from proxy.base.policy import NodeAdmin
from proxy.signing.facts import NodeFacts
from proxy.signing.health import EVERY_FAMILY, RISE_AFTER_WRONG, NodeHealth

UP, DOWN, DRAINING, CONNECTING = NodeState.UP, NodeState.DOWN, NodeState.DRAINING, NodeState.CONNECTING
EJECTED, DISABLED = NodeState.EJECTED, NodeState.DISABLED
EC, RSA, ED = KeyFamily.EC, KeyFamily.RSA, KeyFamily.ED25519
SKI, OTHER = b"k" * 20, b"o" * 20


def linked(*, rise: int = 1, fall: int = 2) -> NodeHealth:
    health = NodeHealth(rise=rise, fall=fall)
    health.link_opened()
    return health


def proven(*families: KeyFamily, rise: int = 1, fall: int = 2) -> NodeHealth:
    health = linked(rise=rise, fall=fall)
    for family in families or (EC,):
        for _ in range(rise):
            health.probed(family, is_good=True)
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
        before = health.facts, health.state
        assert health.probed(EC, is_good=is_good) is ((health.facts, health.state) != before)
        seen.append(health.state)
    assert seen == states


def test_one_family_that_fails_takes_out_its_keys_alone() -> None:
    health = proven(EC, RSA)
    assert not health.probed(RSA, is_good=False)
    assert health.probed(RSA, is_good=False)
    assert (health.state, health.facts) == (UP, NodeFacts(True, frozenset({RSA})))
    health.probed(RSA, is_good=True)
    assert (health.state, health.facts) == (UP, NodeFacts(True))


def test_streaks_of_families_do_not_mix() -> None:
    health = proven(EC, RSA)
    for _ in range(5):
        health.probed(RSA, is_good=False)
        health.probed(EC, is_good=True)
    assert health.facts.failing == {RSA}


def test_a_family_that_was_never_probed_counts_as_good_once_another_is_proven() -> None:
    health = linked()
    health.probed(RSA, is_good=False)
    health.probed(RSA, is_good=False)
    assert (health.state, health.facts.is_usable) == (DOWN, False)
    health.probed(EC, is_good=True)
    assert (health.state, health.facts) == (UP, NodeFacts(True, frozenset({RSA})))


def test_a_proven_node_whose_every_family_fails_is_down_and_left_to_the_router() -> None:
    health = proven(EC, RSA)
    for family in (EC, RSA, EC, RSA):
        health.probed(family, is_good=False)
    assert (health.state, health.facts) == (DOWN, NodeFacts(True, frozenset({EC, RSA})))


def test_a_node_that_was_never_proven_is_not_usable() -> None:
    health = linked()
    health.probed(EC, is_good=False)
    health.probed(EC, is_good=False)
    assert (health.state, health.facts) == (DOWN, NodeFacts(False, frozenset({EC})))


def test_an_echo_speaks_for_every_family() -> None:
    health = linked()
    health.probed(None, is_good=True)
    assert (health.state, health.facts) == (UP, NodeFacts(True))
    health.probed(None, is_good=False)
    health.probed(None, is_good=False)
    assert (health.state, health.facts) == (DOWN, NodeFacts(True, EVERY_FAMILY))


def test_what_is_no_longer_probed_says_nothing_any_more() -> None:
    health = proven(EC, RSA)
    health.probed(RSA, is_good=False)
    health.probed(RSA, is_good=False)
    assert health.probing({EC})
    assert health.facts == NodeFacts(True)
    assert not health.probing(())
    health.probed(None, is_good=False)
    health.probed(None, is_good=False)
    assert health.probing({EC})
    assert (health.state, health.facts) == (UP, NodeFacts(True))


def test_a_node_is_connecting_until_a_link_was_refused() -> None:
    health = NodeHealth(rise=1, fall=1)
    assert health.state is CONNECTING
    assert health.connect_failed()
    assert health.state is DOWN
    assert not health.connect_failed()


def test_a_new_link_has_to_prove_itself_again() -> None:
    health = proven()
    assert health.link_lost()
    assert (health.state, health.facts.is_usable) == (DOWN, False)
    assert not health.link_opened()
    assert (health.state, health.facts.is_usable) == (DOWN, False)
    health.probed(EC, is_good=True)
    assert (health.state, health.facts.is_usable) == (UP, True)


def test_a_probe_that_ends_without_a_link_says_nothing() -> None:
    health = proven()
    health.link_lost()
    assert not health.probed(EC, is_good=True)
    health.link_opened()
    assert health.state is DOWN


def test_one_of_two_links_is_enough() -> None:
    health = proven()
    health.link_opened()
    assert not health.link_lost()
    assert not health.connect_failed()
    assert health.state is UP


def test_draining_lasts_as_long_as_the_link() -> None:
    health = proven()
    assert health.drain_announced()
    health.probed(EC, is_good=True)
    assert (health.state, health.facts.is_usable) == (DRAINING, False)
    health.link_lost()
    assert health.state is DOWN
    health.link_opened()
    assert not health.is_draining


def test_the_operator_can_drain_disable_and_enable() -> None:
    health = proven()
    assert health.admin_set("draining")
    assert (health.state, health.facts.is_usable) == (DRAINING, False)
    health.probed(EC, is_good=True)
    assert health.admin_set("enabled")
    assert (health.state, health.facts.is_usable) == (UP, True)
    assert health.admin_set("disabled")
    assert (health.state, health.facts.is_usable) == (DISABLED, False)
    assert not health.link_lost()
    assert health.admin_set("enabled")
    assert health.state is CONNECTING


def test_a_node_may_be_disabled_from_the_start() -> None:
    health = NodeHealth(rise=1, fall=1, admin="disabled")
    assert health.state is DISABLED
    assert not health.connect_failed()


def test_ejected_is_shown_only_where_everything_else_is_good() -> None:
    health = proven()
    assert health.ejected_told(is_ejected=True)
    assert (health.state, health.facts) == (EJECTED, NodeFacts(True))
    health.drain_announced()
    assert health.state is DRAINING
    health.link_lost()
    assert health.state is DOWN
    health.link_opened()
    health.probed(EC, is_good=True)
    assert health.state is EJECTED
    assert health.ejected_told(is_ejected=False)
    assert health.state is UP


@pytest.mark.parametrize(("rise", "needed"), [(1, RISE_AFTER_WRONG), (5, 5)])
def test_one_wrong_signature_takes_a_node_out_until_it_has_made_it_good(rise: int, needed: int) -> None:
    health = proven(rise=rise, fall=10)
    assert health.signed_wrongly(SKI)
    assert not health.signed_wrongly(SKI)
    for _ in range(needed - 1):
        assert not health.probed(EC, is_good=True, redeems={SKI})
        assert (health.state, health.facts.is_usable, health.wrong_keys) == (DOWN, False, frozenset({SKI}))
    assert health.probed(EC, is_good=True, redeems={SKI})
    assert (health.state, health.facts.is_usable, health.wrong_keys) == (UP, True, frozenset())
    health.link_lost()
    health.link_opened()
    for _ in range(rise):
        health.probed(EC, is_good=True)
    assert health.state is UP


def test_probes_with_other_keys_do_not_make_up_for_a_wrong_signature() -> None:
    health = proven(EC, RSA)
    health.signed_wrongly(SKI)
    for _ in range(9):
        assert not health.probed(EC, is_good=True, redeems={OTHER})
        assert not health.probed(RSA, is_good=True)
    assert health.wrong_keys == {SKI}


def test_each_wrong_key_has_to_be_made_good() -> None:
    health = proven()
    health.signed_wrongly(SKI)
    health.signed_wrongly(OTHER)
    for _ in range(RISE_AFTER_WRONG):
        health.probed(EC, is_good=True, redeems={SKI})
    assert (health.state, health.wrong_keys) == (DOWN, frozenset({OTHER}))
    for _ in range(RISE_AFTER_WRONG):
        health.probed(EC, is_good=True, redeems={OTHER})
    assert health.state is UP


def test_good_probes_count_from_the_last_wrong_signature_and_from_the_last_bad_probe() -> None:
    health = proven()
    health.signed_wrongly(SKI)
    for is_good in (True, True, False, True, True):
        health.probed(EC, is_good=is_good, redeems={SKI})
    health.signed_wrongly(SKI)
    for _ in range(RISE_AFTER_WRONG - 1):
        health.probed(EC, is_good=True, redeems={SKI})
    assert health.state is DOWN


def test_a_new_link_does_not_make_up_for_a_wrong_signature() -> None:
    health = proven()
    health.signed_wrongly(SKI)
    for _ in range(RISE_AFTER_WRONG - 1):
        health.probed(EC, is_good=True, redeems={SKI})
    health.link_lost()
    health.link_opened()
    for _ in range(RISE_AFTER_WRONG):
        assert not health.facts.is_usable
        health.probed(EC, is_good=True, redeems={SKI})
    assert (health.state, health.facts.is_usable) == (UP, True)


def last_run(results: list[bool], *, rise: int, fall: int) -> bool | None:
    """What the last run of results that was long enough said."""
    runs = [(value, len(list(group))) for value, group in groupby(results)]
    telling = [value for value, length in runs if length >= (rise if value else fall)]
    return telling[-1] if telling else None


class History:
    """The oracle: everything that ever happened, read from the beginning for each question."""

    def __init__(self, rise: int, fall: int, admin: NodeAdmin) -> None:
        self.rise, self.fall, self.admin = rise, fall, admin
        self.events: list[tuple[str, object, bool, frozenset[bytes]]] = []

    def add(self, what: str, about: object = None, good: bool = False, keys: frozenset[bytes] = frozenset()) -> None:
        self.events.append((what, about, good, keys))

    @property
    def links(self) -> int:
        names = [event[0] for event in self.events]
        return names.count("opened") - names.count("lost")

    def since_link(self) -> list[tuple[str, object, bool, frozenset[bytes]]]:
        """Events since the first link opened or the last was lost."""
        links, start = 0, 0
        for number, (what, *_rest) in enumerate(self.events):
            before = links
            links += (what == "opened") - (what == "lost")
            if before != links and 0 in (before, links):
                start = number + 1
        return self.events[start:]

    def results(self, family: object, *, everything: bool = False) -> list[bool]:
        found: list[bool] = []
        for what, about, good, _keys in self.since_link():
            if what == "probed" and about == family:
                found.append(good)
            elif what == "probing" and not everything:
                assert isinstance(about, frozenset)
                if family not in (about or {None}):
                    found.clear()
        return found

    def is_proven(self) -> bool:
        """Whether some family was ever proven since the link opened. Runs end where a family is no longer probed."""
        runs: dict[object, int] = {}
        for what, about, good, _keys in self.since_link():
            if what == "probed":
                runs[about] = runs.get(about, 0) + 1 if good else 0
                if runs[about] >= self.rise:
                    return True
            elif what == "probing":
                assert isinstance(about, frozenset)
                runs = {family: run for family, run in runs.items() if family in (about or {None})}
        return False

    def verdicts(self) -> dict[object, bool]:
        told = {family: last_run(self.results(family), rise=self.rise, fall=self.fall) for family in (None, *KeyFamily)}
        return {family: verdict for family, verdict in told.items() if verdict is not None}

    def failing(self) -> frozenset[KeyFamily]:
        bad = {family for family, verdict in self.verdicts().items() if not verdict}
        return frozenset(KeyFamily) if None in bad else frozenset(f for f in bad if isinstance(f, KeyFamily))

    def wrong(self) -> frozenset[bytes]:
        left: dict[bytes, int] = {}
        links = 0
        for what, about, good, keys in self.events:
            links += (what == "opened") - (what == "lost")
            if what == "wrong":
                assert isinstance(about, bytes)
                left[about] = max(self.rise, 3)
            elif what == "probed":
                for ski in keys & left.keys():
                    left[ski] = left[ski] - 1 if good else max(self.rise, 3)
                left = {ski: count for ski, count in left.items() if count}
            elif (what, links) in (("opened", 1), ("lost", 0)):
                left = dict.fromkeys(left, max(self.rise, 3))
        return frozenset(left)

    def is_draining(self) -> bool:
        return any(event[0] == "draining" for event in self.since_link()) and self.links > 0

    def has_failed(self) -> bool:
        links, failed, admin = 0, False, self.admin
        for what, about, _good, _keys in self.events:
            links += (what == "opened") - (what == "lost")
            if what in ("refused", "lost") and links == 0:
                failed = True
            elif what == "admin":
                failed, admin = failed and admin != "disabled", about  # type: ignore[assignment]
        return failed

    def admin_now(self) -> object:
        return next((event[1] for event in reversed(self.events) if event[0] == "admin"), self.admin)

    def is_ejected(self) -> bool:
        return next((event[2] for event in reversed(self.events) if event[0] == "ejected"), False)

    def is_usable(self) -> bool:
        hindrances = (self.wrong(), self.is_draining(), self.admin_now() != "enabled", self.links == 0)
        return self.is_proven() and not any(hindrances)

    def state(self) -> NodeState:
        if self.admin_now() == "disabled":
            return DISABLED
        if self.links and (self.is_draining() or self.admin_now() == "draining"):
            return DRAINING
        verdicts = list(self.verdicts().values())
        if self.links and (self.wrong() or (verdicts and not any(verdicts))):
            return DOWN
        if not self.links or not self.is_proven():
            return DOWN if self.has_failed() else CONNECTING
        return EJECTED if self.is_ejected() else UP


class HealthMachine(RuleBasedStateMachine):
    """Anything may happen in any order; facts and state are always those that the history tells."""

    @initialize(
        rise=st.integers(1, 4), fall=st.integers(1, 3), admin=st.sampled_from(["enabled", "draining", "disabled"])
    )
    def begin(self, rise: int, fall: int, admin: NodeAdmin) -> None:
        self.health = NodeHealth(rise=rise, fall=fall, admin=admin)
        self.history = History(rise, fall, admin)

    def told(self, is_changed: bool, before: tuple[NodeFacts, NodeState]) -> None:
        assert is_changed is ((self.health.facts, self.health.state) != before)

    @property
    def now(self) -> tuple[NodeFacts, NodeState]:
        return self.health.facts, self.health.state

    @precondition(lambda self: self.health.links_up < 3)
    @rule()
    def link_opens(self) -> None:
        before = self.now
        self.history.add("opened")
        self.told(self.health.link_opened(), before)

    @precondition(lambda self: self.health.links_up > 0)
    @rule()
    def link_breaks(self) -> None:
        before = self.now
        self.history.add("lost")
        self.told(self.health.link_lost(), before)

    @rule()
    def link_is_refused(self) -> None:
        before = self.now
        self.history.add("refused")
        self.told(self.health.connect_failed(), before)

    @rule()
    def node_announces_draining(self) -> None:
        before = self.now
        self.history.add("draining")
        self.told(self.health.drain_announced(), before)

    @rule(
        family=st.sampled_from([None, *KeyFamily]),
        results=st.lists(st.booleans(), min_size=1, max_size=4) | st.just([True] * 4),
        redeems=st.sets(st.sampled_from([SKI, OTHER])).map(frozenset),
    )
    def probes_end(self, family: KeyFamily | None, results: list[bool], redeems: frozenset[bytes]) -> None:
        for is_good in results:
            before = self.now
            if self.health.links_up:
                self.history.add("probed", family, is_good, redeems)
            self.told(self.health.probed(family, is_good=is_good, redeems=redeems), before)

    @rule(families=st.sets(st.sampled_from(list(KeyFamily))).map(frozenset))
    def other_families_are_probed(self, families: frozenset[KeyFamily]) -> None:
        before = self.now
        self.history.add("probing", families)
        self.told(self.health.probing(families), before)

    @rule(ski=st.sampled_from([SKI, OTHER]))
    def node_signs_wrongly(self, ski: bytes) -> None:
        before = self.now
        self.history.add("wrong", ski)
        self.told(self.health.signed_wrongly(ski), before)

    @rule(admin=st.sampled_from(["enabled", "enabled", "draining", "disabled"]))
    def operator_decides(self, admin: NodeAdmin) -> None:
        before = self.now
        self.history.add("admin", admin)
        self.told(self.health.admin_set(admin), before)

    @rule(is_ejected=st.booleans())
    def router_decides(self, is_ejected: bool) -> None:
        before = self.now
        self.history.add("ejected", good=is_ejected)
        self.told(self.health.ejected_told(is_ejected=is_ejected), before)

    @invariant()
    def everything_is_as_the_history_tells(self) -> None:
        if hasattr(self, "health"):
            assert self.health.links_up == self.history.links
            assert self.health.facts == NodeFacts(self.history.is_usable(), self.history.failing())
            assert self.health.state is self.history.state()
            assert self.health.wrong_keys == self.history.wrong()


TestHealthMachine = HealthMachine.TestCase
