from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proxy.base.observe import LookupOutcome
from proxy.base.policy import DiscoverySource, NodeAddress
from proxy.signing.discovery import Answer, Record
from proxy.signing.roster import Change, Notice, Roster

SOURCE = DiscoverySource(name="hsm", record="hsm.test", port=7, max_nodes=3)
SECOND = DiscoverySource(name="other", record="other.test", port=7, max_nodes=3)
SRV = DiscoverySource(name="srv", kind="srv", record="_k._tcp.test")


def hosts(*last: int, unanswered: str = "", left_out: int = 0) -> Answer:
    """An answer with 10.0.0.LAST."""
    records = tuple(Record(f"10.0.0.{each}", 7, "A") for each in last)
    outcome = LookupOutcome.PARTIAL if unanswered else LookupOutcome.OK
    return Answer(outcome, records, 1.0, frozenset(unanswered.split()), left_out, "why")


def service(*records: tuple[int, str, int, int]) -> Answer:
    """An answer with (last of the address, target, priority, weight)."""
    found = (Record(f"10.0.0.{last}", 7, target, target, prio, weight) for last, target, prio, weight in records)
    return Answer(LookupOutcome.OK, tuple(found), 1.0)


def names(roster: Roster) -> list[str]:
    return [node.name for node in roster.nodes]


def added(change: Change) -> list[str]:
    return [node.name for node in change.added]


FAILURES = [outcome for outcome in LookupOutcome if outcome not in (LookupOutcome.OK, LookupOutcome.PARTIAL)]


def test_nodes_come() -> None:
    roster = Roster([SOURCE], [])
    assert added(roster.answered("hsm", hosts(2, 1))) == ["hsm-10.0.0.1-7", "hsm-10.0.0.2-7"]
    assert roster.answered("hsm", hosts(1, 2)) == Change(LookupOutcome.OK)
    assert added(roster.answered("hsm", hosts(1, 2, 3))) == ["hsm-10.0.0.3-7"]
    assert roster.known("hsm") == 3


def test_a_node_goes_when_two_answers_in_a_row_lack_it() -> None:
    roster = Roster([SOURCE], [])
    roster.answered("hsm", hosts(1, 2))
    assert roster.answered("hsm", hosts(1)).removed == ()
    assert roster.answered("hsm", hosts(1, 2)) == Change(LookupOutcome.OK)
    assert roster.answered("hsm", hosts(1)).removed == ()
    assert roster.answered("hsm", hosts(1)).removed == ("hsm-10.0.0.2-7",)
    assert names(roster) == ["hsm-10.0.0.1-7"]


def test_a_failure_between_two_answers_neither_counts_nor_forgives() -> None:
    roster = Roster([SOURCE], [])
    roster.answered("hsm", hosts(1, 2))
    roster.answered("hsm", hosts(1))
    for outcome in FAILURES:
        assert roster.answered("hsm", Answer(outcome)).removed == ()
    assert roster.answered("hsm", hosts(1)).removed == ("hsm-10.0.0.2-7",)


def test_a_failure_changes_nothing_and_is_told_once() -> None:
    roster = Roster([SOURCE], [])
    roster.answered("hsm", hosts(1))
    timeout, gone = Answer(LookupOutcome.TIMEOUT, detail="silent"), Answer(LookupOutcome.NO_NAME, detail="gone")
    assert roster.answered("hsm", timeout) == Change(LookupOutcome.TIMEOUT, notices=((Notice.FAILED, "silent"),))
    assert roster.answered("hsm", timeout) == Change(LookupOutcome.TIMEOUT)
    assert roster.answered("hsm", gone).notices == ((Notice.FAILED, "gone"),)
    assert roster.answered("hsm", hosts(1)).notices == ((Notice.WORKS_AGAIN, ""),)
    assert roster.answered("hsm", hosts(1)).notices == ()
    assert names(roster) == ["hsm-10.0.0.1-7"]


def test_an_answer_without_a_usable_address_is_none() -> None:
    roster = Roster([SOURCE], [])
    roster.answered("hsm", hosts(1))
    blocked = Answer(LookupOutcome.OK, (Record("0.0.0.0", 7, "A"),), 1.0)
    for _ in range(3):
        change = roster.answered("hsm", blocked)
        assert (change.outcome, change.removed) == (LookupOutcome.NO_RECORDS, ())
    assert names(roster) == ["hsm-10.0.0.1-7"]


def test_what_was_not_answered_is_not_held_against_a_node() -> None:
    roster = Roster([SOURCE], [])
    both = Answer(LookupOutcome.OK, (Record("10.0.0.1", 7, "A"), Record("::5", 7, "AAAA")), 1.0)
    roster.answered("hsm", both)
    for _ in range(4):
        change = roster.answered("hsm", hosts(2, unanswered="AAAA"))
    assert change.notices == ()  # told the first time
    assert names(roster) == ["hsm-10.0.0.2-7", "hsm---5-7"]


def test_too_many_are_left_out_and_those_that_are_known_stay() -> None:
    roster = Roster([SOURCE], [])
    roster.answered("hsm", hosts(7, 8, 9))
    change = roster.answered("hsm", hosts(1, 7, 8, 9))
    assert (change.added, change.removed) == ((), ())
    assert change.notices == ((Notice.TOO_MANY, "1 more than max_nodes (3)"),)
    assert roster.answered("hsm", hosts(1, 7, 8, 9)).notices == ()
    assert roster.answered("hsm", hosts(1, 2, 7, 8, 9, left_out=5)).notices[0][1].startswith("7 more")


def test_a_listed_node_wins_by_address_name_or_host() -> None:
    listed = [
        NodeAddress(name="one", address="10.0.0.1:7"),
        NodeAddress(name="hsm-10.0.0.2-7", address="10.9.9.9:7"),
        NodeAddress(name="three", address="N3.test.:7", state="disabled"),
    ]
    roster = Roster([SOURCE, SRV], listed)
    assert added(roster.answered("hsm", hosts(1, 2))) == []
    assert roster.known("hsm") == 2
    assert added(roster.answered("srv", service((3, "n3.test", 0, 0), (4, "n4.test", 0, 0)))) == ["srv-10.0.0.4-7"]


def test_of_two_sources_the_one_that_has_a_node_keeps_it_and_hands_it_over() -> None:
    roster = Roster([SOURCE, SECOND], [])
    assert added(roster.answered("other", hosts(1))) == ["other-10.0.0.1-7"]
    assert added(roster.answered("hsm", hosts(1, 2))) == ["hsm-10.0.0.2-7"]
    roster.answered("other", hosts(3))
    change = roster.answered("other", hosts(3))
    assert added(change) == ["hsm-10.0.0.1-7"]
    assert change.removed == ("other-10.0.0.1-7",)
    assert names(roster) == ["hsm-10.0.0.1-7", "hsm-10.0.0.2-7", "other-10.0.0.3-7"]


def test_another_weight_is_told_without_a_removal() -> None:
    roster = Roster([SRV], [])
    roster.answered("srv", service((1, "a", 0, 10), (2, "b", 0, 10)))
    change = roster.answered("srv", service((1, "a", 0, 10), (2, "b", 0, 5)))
    assert [(node.name, node.weight) for node in change.added] == [("srv-10.0.0.2-7", 0.5)]
    assert change.removed == ()


def test_another_host_behind_an_address_is_another_node() -> None:
    roster = Roster([SRV], [])
    roster.answered("srv", service((1, "a", 0, 0)))
    change = roster.answered("srv", service((1, "b", 0, 0)))
    assert [(node.name, node.server_name) for node in change.added] == [("srv-10.0.0.1-7", "b")]
    assert change.removed == ("srv-10.0.0.1-7",)


def test_when_the_best_priority_is_gone_the_next_takes_its_place() -> None:
    roster = Roster([SRV], [])
    roster.answered("srv", service((1, "a", 10, 0), (2, "b", 20, 0)))
    assert [node.backup for node in roster.nodes] == [False, True]
    change = roster.answered("srv", service((2, "b", 20, 0)))
    assert [(node.name, node.backup) for node in change.added] == [("srv-10.0.0.2-7", False)]


LAST = st.lists(st.integers(1, 8), max_size=6, unique=True)


class Holder(RuleBasedStateMachine):
    """Whoever carries out the changes has what the roster says, and no more nodes than are allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = NodeAddress(name="listed", address="10.0.0.8:7")
        self.roster = Roster([SOURCE, SECOND], [self.listed])
        self.nodes: dict[str, NodeAddress] = {}
        self.lacking: dict[tuple[str, int], int] = {}

    @rule(source=st.sampled_from(["hsm", "other"]), last=LAST)
    def answer(self, source: str, last: list[int]) -> None:
        self.carry_out(self.roster.answered(source, hosts(*last)))
        if last:
            for each in range(1, 9):
                self.lacking[source, each] = 0 if each in last else self.lacking.get((source, each), 2) + 1

    @rule(source=st.sampled_from(["hsm", "other"]), outcome=st.sampled_from(FAILURES))
    def fail(self, source: str, outcome: LookupOutcome) -> None:
        before = dict(self.nodes)
        self.carry_out(self.roster.answered(source, Answer(outcome)))
        assert self.nodes == before

    def carry_out(self, change: Change) -> None:
        for name in change.removed:
            del self.nodes[name]
        for node in change.added:
            self.nodes[node.name] = node

    @invariant()
    def it_has_what_the_roster_says(self) -> None:
        assert self.nodes == {node.name: node for node in self.roster.nodes}

    @invariant()
    def every_address_is_there_once_and_not_the_listed_one(self) -> None:
        addresses = [node.address for node in self.nodes.values()]
        assert len(addresses) == len(set(addresses))
        assert self.listed.address not in addresses

    @invariant()
    def bounds_hold(self) -> None:
        assert all(self.roster.known(source.name) <= 2 * source.max_nodes for source in (SOURCE, SECOND))

    @invariant()
    def nobody_stays_whom_two_answers_lacked(self) -> None:
        for node in self.nodes.values():
            source, address, _port = node.name.split("-")
            assert self.lacking[source, int(address.rsplit(".", 1)[1])] < 2


TestHolder = Holder.TestCase
TestHolder.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(st.lists(LAST.filter(bool), min_size=2, max_size=12))
def test_a_name_that_settles_is_obeyed_after_two_answers(answers: list[list[int]]) -> None:
    roster = Roster([msgspec.structs.replace(SOURCE, max_nodes=16)], [])
    for last in [*answers, answers[-1]]:
        roster.answered("hsm", hosts(*last))
    assert {node.address for node in roster.nodes} == {f"10.0.0.{each}:7" for each in answers[-1]}
