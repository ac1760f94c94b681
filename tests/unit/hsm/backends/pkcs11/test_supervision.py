"""The life of a token: a test for every transition, and what must hold whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hsm.backends.base import BackendError
from hsm.backends.pkcs11.commands import (
    GRACE_S,
    Counts,
    EndRequests,
    EndWorker,
    KillWorker,
    ReadPin,
    RefusedPins,
    SendPing,
    StartWorker,
    Timing,
    TokenState,
)
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.supervision import SOON_S, STRAGGLER_FACTOR, TROUBLE_COUNT, TROUBLE_S, Supervision
from hsm.wire.errors import ErrorCode

TIMING = Timing(call_timeout_s=5.0, open_timeout_s=30.0, retry_min_s=0.2, retry_max_s=10.0)
PIN, OTHER = b"mark of a PIN", b"mark of another PIN"


class Play:
    """A machine, a clock, and what is expected of it."""

    def __init__(self, timing: Timing = TIMING, limit: int = 100) -> None:
        self.refused = RefusedPins()
        self.machine: Supervision[str] = Supervision(timing, self.refused, limit)
        self.now = 1000.0

    @property
    def state(self) -> TokenState:
        return self.machine.state

    def wait(self, seconds: float) -> list[Any]:
        self.now += seconds
        return self.machine.tick(self.now)

    def wait_until_due(self) -> list[Any]:
        due = self.machine.next_tick()
        assert due is not None
        self.now = due
        return self.machine.tick(due)

    def start(self) -> int:
        (command,) = self.machine.start(self.now)
        assert isinstance(command, ReadPin)
        assert self.state is TokenState.STARTING
        return command.number

    def opening(self) -> None:
        assert self.machine.pin_read(self.start(), PIN, self.now) == [StartWorker()]
        assert self.state is TokenState.OPENING

    def up(self) -> None:
        self.opening()
        assert self.machine.opened(self.now) == []
        assert self.state is TokenState.UP

    def ask(self, name: str, limit_s: float = 5.0) -> int:
        number = self.machine.ask(name, self.now, limit_s)
        assert isinstance(number, int)
        return number

    def up_again(self, commands: list[Any]) -> None:
        (read,) = commands
        assert isinstance(read, ReadPin)
        assert self.machine.pin_read(read.number, PIN, self.now) == [StartWorker()]
        self.machine.opened(self.now)
        assert self.state is TokenState.UP


@pytest.fixture
def play() -> Play:
    return Play()


def ended(commands: list[Any]) -> list[str]:
    """The requests that were ended, each with an error that another node may heal."""
    names = []
    for command in commands:
        if isinstance(command, EndRequests):
            assert command.error.code.other_node_may_sign
            names += command.asked
    return names


# opening


def test_a_token_is_opened_with_the_pin_that_was_read(play: Play) -> None:
    play.up()
    assert play.machine.counts == Counts(workers=1, openings=1)
    assert play.machine.problem == ""


def test_a_pin_that_cant_be_read_is_looked_for_again(play: Play) -> None:
    assert play.machine.pin_unreadable(play.start(), "no such file", play.now) == []
    assert play.state is TokenState.BACKING_OFF
    assert play.machine.problem == "no such file"
    assert isinstance(play.wait_until_due()[0], ReadPin)
    assert play.state is TokenState.STARTING


def test_a_pin_that_nobody_gives_is_not_waited_for_for_ever(play: Play) -> None:
    number = play.start()
    assert play.wait(30.0) == []
    assert play.state is TokenState.BACKING_OFF
    assert "within 30 s" in play.machine.problem
    assert play.machine.pin_read(number, PIN, play.now) == [], "it came too late"


def test_pauses_grow_and_have_a_limit(play: Play) -> None:
    play.opening()
    pauses = []
    for _ in range(9):
        play.machine.open_failed(Failure.BUSY, "busy", play.now)
        assert play.state is TokenState.REPLACING
        assert play.machine.worker_ended("", play.now) == []
        assert play.state is TokenState.BACKING_OFF
        before = play.now
        (read,) = play.wait_until_due()
        pauses.append(play.now - before)
        assert play.machine.pin_read(read.number, PIN, play.now) == [StartWorker()]
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0])


def test_an_opening_that_takes_too_long_is_given_up(play: Play) -> None:
    play.opening()
    assert play.wait(29.9) == []
    assert play.wait(0.1) == [KillWorker()]
    assert play.state is TokenState.REPLACING
    assert play.machine.counts.hangs == 1


def test_a_worker_that_ends_while_it_opens_is_followed_by_another(play: Play) -> None:
    play.opening()
    assert play.machine.worker_ended("ended by SIGSEGV", play.now) == []
    assert play.state is TokenState.BACKING_OFF
    assert play.machine.problem == "ended by SIGSEGV"
    assert isinstance(play.wait(0.2)[0], ReadPin)


def test_no_worker_starts_before_the_last_one_is_gone(play: Play) -> None:
    play.opening()
    assert play.machine.open_failed(Failure.BROKEN, "odd", play.now) == [EndWorker()]
    assert play.wait(GRACE_S) == [KillWorker()], "it did not end by itself"
    assert play.machine.next_tick() is None, "the end of the worker is all there is to wait for"
    assert play.wait(1000.0) == []
    assert play.state is TokenState.REPLACING


# up


def test_a_worker_that_ends_after_a_long_time_is_replaced_at_once(play: Play) -> None:
    play.up()
    play.now += 11.0
    first, second = play.ask("a"), play.ask("b")
    commands = play.machine.worker_ended("ended by SIGSEGV", play.now)
    assert ended(commands[:1]) == ["a", "b"]
    assert play.state is TokenState.STARTING
    play.up_again(commands[1:])
    assert play.machine.counts == Counts(workers=2, openings=2, crashes=1)
    assert play.machine.answered(first) is None
    assert play.machine.answered(second) is None


def test_workers_that_end_again_and_again_are_replaced_more_and_more_slowly(play: Play) -> None:
    play.up()
    play.up_again(play.machine.worker_ended("1", play.now))
    for pause in (0.2, 0.4, 0.8):
        play.now += 1.0
        assert play.machine.worker_ended("again", play.now) == []
        due = play.machine.next_tick()
        assert due == pytest.approx(play.now + pause)
        play.up_again(play.wait_until_due())
    play.now += 10.0
    play.up_again(play.machine.worker_ended("after a good time", play.now))


def test_a_call_that_does_not_return_costs_the_worker_its_life(play: Play) -> None:
    play.up()
    play.now += 0.3
    play.ask("slow")
    while play.now < 1005.3:
        commands = play.wait_until_due()
        for ping in commands:
            if isinstance(ping, SendPing):
                play.machine.ponged(ping.number)
    assert play.now == pytest.approx(1005.3)
    assert commands[0] == KillWorker()
    assert ended(commands) == ["slow"]
    assert play.state is TokenState.REPLACING
    assert play.machine.counts.hangs == 1
    play.up_again(play.machine.worker_ended("", play.now))


def test_a_token_that_has_much_to_do_is_slow_and_not_hung(play: Play) -> None:
    play.up()
    numbers = [play.ask(str(number)) for number in range(30)]
    for number in numbers[:-1]:
        for command in play.wait(0.5):  # a signature takes half a second, and the last of thirty has waited for 14.5 s
            assert isinstance(command, SendPing)
            play.machine.ponged(command.number)
        assert play.machine.answered(number) is not None
    assert play.state is TokenState.UP
    assert play.machine.counts.hangs == 0


def test_a_call_that_hangs_beside_others_that_do_not_is_noticed_in_the_end(play: Play) -> None:
    play.up()
    play.ask("hung")
    begin = play.now
    while play.state is TokenState.UP:
        other = play.ask("other")
        commands = play.wait(0.5)
        for command in commands:
            if isinstance(command, SendPing):
                play.machine.ponged(command.number)
        if play.state is TokenState.UP:
            assert play.machine.answered(other) == "other"
    assert play.now - begin == pytest.approx(STRAGGLER_FACTOR * 5.0)
    assert ended(commands) == ["hung", "other"]


def test_a_worker_that_does_not_answer_pings_is_taken_for_hung(play: Play) -> None:
    play.up()
    (ping,) = play.wait_until_due()
    assert isinstance(ping, SendPing)
    assert play.now == 1001.0
    while play.state is TokenState.UP:
        commands = play.wait_until_due()
        assert commands in ([], [KillWorker()]), "one ping at a time"
    assert play.now == pytest.approx(1006.0)
    assert play.machine.counts.hangs == 1


def test_pings_that_are_answered_go_on(play: Play) -> None:
    play.up()
    for _ in range(20):
        (ping,) = play.wait_until_due()
        play.machine.ponged(ping.number)
    assert play.state is TokenState.UP
    assert play.now == 1020.0


def test_an_answer_to_another_ping_does_not_count(play: Play) -> None:
    play.up()
    (ping,) = play.wait_until_due()
    play.machine.ponged(ping.number + 1)
    assert play.wait(5.0) == [KillWorker()]


@pytest.mark.parametrize("kind", [Failure.TOKEN_GONE])
def test_a_token_that_is_gone_is_opened_anew(play: Play, kind: Failure) -> None:
    play.up()
    number, _other = play.ask("a"), play.ask("b")
    asked, commands = play.machine.failed(number, kind, "no token in the slot", play.now)
    assert asked == "a"
    assert commands[0] == EndWorker()
    assert ended(commands) == ["b"]
    assert play.state is TokenState.REPLACING
    assert play.machine.problem == "no token in the slot"


@pytest.mark.parametrize("kind", [Failure.BUSY, Failure.KEY_GONE, Failure.UNFIT, Failure.INVALID])
def test_failures_of_a_request_are_its_own(play: Play, kind: Failure) -> None:
    play.up()
    for _ in range(100):
        play.now += 0.005
        assert play.machine.failed(play.ask("a"), kind, "no", play.now) == ("a", [])
    assert play.state is TokenState.UP


@pytest.mark.parametrize("kind", [Failure.SESSION_LOST, Failure.LOGGED_OUT, Failure.BROKEN])
def test_sessions_that_stay_lost_cost_the_worker_its_life(play: Play, kind: Failure) -> None:
    play.up()
    for number in range(TROUBLE_COUNT * 5):
        assert play.machine.failed(play.ask("a"), kind, "no", play.now) == ("a", []), number
    play.now += TROUBLE_S
    assert play.machine.failed(play.ask("a"), kind, "lost", play.now) == ("a", [EndWorker()])
    assert play.state is TokenState.REPLACING


def test_a_signature_ends_the_trouble(play: Play) -> None:
    play.up()
    for _ in range(50):
        play.now += 0.05
        play.machine.failed(play.ask("a"), Failure.SESSION_LOST, "no", play.now)
        if play.now % 0.5 < 0.06:
            assert play.machine.answered(play.ask("b")) == "b"
    assert play.state is TokenState.UP


def test_a_link_that_is_lost_is_explained_by_the_end_of_the_worker(play: Play) -> None:
    play.up()
    assert play.machine.link_lost("it hung up", play.now) == [EndWorker()]
    assert play.machine.problem == "it hung up"
    play.machine.worker_ended("ended by SIGSEGV", play.now)
    assert play.machine.problem == "ended by SIGSEGV"
    assert play.machine.counts.crashes == 1


def test_a_killed_worker_explains_nothing(play: Play) -> None:
    play.up()
    play.machine.failed(play.ask("a"), Failure.TOKEN_GONE, "the cable", play.now)
    play.machine.worker_ended("ended by SIGTERM", play.now)
    assert play.machine.problem == "the cable"


# requests


def test_requests_of_a_token_that_is_not_up_are_refused_at_once(play: Play) -> None:
    for state in (TokenState.STOPPED, TokenState.STARTING, TokenState.OPENING, TokenState.BACKING_OFF):
        if state is TokenState.STARTING:
            number = play.start()
        elif state is TokenState.OPENING:
            play.machine.pin_read(number, PIN, play.now)
        elif state is TokenState.BACKING_OFF:
            play.machine.worker_ended("it ended", play.now)
        assert play.state is state
        refusal = play.machine.ask("a", play.now, 5.0)
        assert isinstance(refusal, BackendError)
        assert refusal.code is ErrorCode.BUSY
        assert refusal.retry_after_s is not None
    assert refusal.retry_after_s == pytest.approx(0.2 + SOON_S)
    assert "backing off" in refusal.detail


def test_requests_are_bounded() -> None:
    play = Play(limit=2)
    play.up()
    play.ask("a")
    play.ask("b")
    refusal = play.machine.ask("c", play.now, 5.0)
    assert isinstance(refusal, BackendError)
    assert refusal.code is ErrorCode.BUSY
    assert play.machine.in_flight == 2


def test_an_answer_of_the_last_worker_is_nobodys(play: Play) -> None:
    play.up()
    number = play.ask("a")
    commands = play.machine.worker_ended("", play.now)
    play.up_again(commands[1:])
    assert play.ask("b") != number
    assert play.machine.answered(number) is None
    assert play.machine.failed(number, Failure.TOKEN_GONE, "late", play.now)[0] is None


# PINs


def test_a_refused_pin_is_not_tried_again(play: Play) -> None:
    play.opening()
    assert play.machine.open_failed(Failure.PIN_REFUSED, "wrong PIN", play.now) == [EndWorker()]
    assert play.state is TokenState.PIN_REFUSED
    play.machine.worker_ended("", play.now)
    for _ in range(10):
        (read,) = play.wait_until_due()
        assert play.machine.pin_read(read.number, PIN, play.now) == []
        assert play.state is TokenState.PIN_REFUSED
    assert play.machine.problem == "wrong PIN"
    assert play.machine.counts.workers == 1


def test_another_pin_is_tried(play: Play) -> None:
    play.opening()
    play.machine.open_failed(Failure.PIN_REFUSED, "wrong PIN", play.now)
    play.machine.worker_ended("", play.now)
    (read,) = play.wait_until_due()
    assert play.machine.pin_read(read.number, OTHER, play.now) == [StartWorker()]
    play.machine.opened(play.now)
    assert play.state is TokenState.UP


def test_a_pin_source_that_can_no_longer_be_read_is_read_again(play: Play) -> None:
    play.opening()
    play.machine.open_failed(Failure.PIN_REFUSED, "wrong PIN", play.now)
    play.machine.worker_ended("", play.now)
    (read,) = play.wait_until_due()
    assert play.machine.pin_unreadable(read.number, "no such file", play.now) == []
    assert play.state is TokenState.PIN_REFUSED
    assert isinstance(play.wait_until_due()[0], ReadPin)


def test_a_pin_that_is_changed_while_the_token_is_up_is_noticed_at_the_next_login(play: Play) -> None:
    play.up()
    number, _other = play.ask("a"), play.ask("b")
    asked, commands = play.machine.failed(number, Failure.PIN_REFUSED, "wrong PIN", play.now)
    assert asked == "a"
    assert ended(commands) == ["b"]
    assert play.state is TokenState.PIN_REFUSED
    assert PIN in play.refused
    assert play.wait_until_due() == [KillWorker()], "the worker is not gone yet"
    play.machine.worker_ended("", play.now)
    assert isinstance(play.wait_until_due()[0], ReadPin)
    refusal = play.machine.ask("c", play.now, 5.0)
    assert isinstance(refusal, BackendError)
    assert refusal.retry_after_s == 10.0


def test_the_operator_may_have_a_refused_pin_tried_again(play: Play) -> None:
    play.opening()
    play.machine.open_failed(Failure.PIN_REFUSED, "locked", play.now)
    play.machine.worker_ended("", play.now)
    (read,) = play.machine.try_again(play.now)
    assert isinstance(read, ReadPin)
    assert play.machine.pin_read(read.number, PIN, play.now) == [StartWorker()]


def test_the_operator_waits_for_the_end_of_a_worker_too(play: Play) -> None:
    play.opening()
    play.machine.open_failed(Failure.PIN_REFUSED, "locked", play.now)
    assert play.machine.try_again(play.now) == []
    assert play.state is TokenState.REPLACING
    play.machine.worker_ended("", play.now)
    (read,) = play.wait_until_due()
    assert isinstance(read, ReadPin)
    assert play.machine.pin_read(read.number, PIN, play.now) == [StartWorker()]


def test_the_operator_need_not_wait_for_a_pause(play: Play) -> None:
    play.machine.pin_unreadable(play.start(), "no such file", play.now)
    assert isinstance(play.machine.try_again(play.now)[0], ReadPin)
    assert play.machine.try_again(play.now) == [], "it is under way"


def test_the_operator_may_forgive_a_pin_that_only_an_owners_operation_tried(play: Play) -> None:
    play.up()
    play.refused.add(OTHER)
    assert play.machine.try_again(play.now) == []
    assert OTHER not in play.refused


# stop


def test_stop_ends_the_worker_and_every_request(play: Play) -> None:
    play.up()
    play.ask("a")
    commands = play.machine.stop(play.now)
    assert commands[0] == EndWorker()
    assert ended(commands) == ["a"]
    assert play.state is TokenState.STOPPED
    assert play.wait_until_due() == [KillWorker()]
    assert play.machine.worker_ended("", play.now) == []
    assert play.machine.next_tick() is None
    assert play.machine.stop(play.now) == []


def test_stop_while_the_pin_is_read(play: Play) -> None:
    number = play.start()
    assert play.machine.stop(play.now) == []
    assert play.machine.pin_read(number, PIN, play.now) == []
    assert play.machine.pin_unreadable(number, "late", play.now) == []
    assert play.state is TokenState.STOPPED


@pytest.mark.parametrize(
    "state", [TokenState.STARTING, TokenState.UP, TokenState.BACKING_OFF, TokenState.STOPPED, TokenState.REPLACING]
)
def test_news_of_an_opening_that_was_given_up_mean_nothing(play: Play, state: TokenState) -> None:
    if state is TokenState.STARTING:
        play.start()
    elif state is TokenState.UP:
        play.up()
    elif state is TokenState.BACKING_OFF:
        play.machine.pin_unreadable(play.start(), "none", play.now)
    elif state is TokenState.REPLACING:
        play.opening()
        play.machine.open_failed(Failure.BUSY, "busy", play.now)
    assert play.machine.opened(play.now) == []
    assert play.machine.open_failed(Failure.PIN_REFUSED, "late", play.now) == []
    assert play.state is state
    if state is not TokenState.UP:
        assert play.machine.link_lost("late", play.now) == []
        assert play.state is state


class AnyLife(RuleBasedStateMachine):
    """Whatever happens in whatever order: no second worker, no refused PIN, every request ends once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.refused = RefusedPins()
        self.machine: Supervision[int] = Supervision(TIMING, self.refused, 8)
        self.is_alive = False
        """A process exists."""
        self.is_told_to_die = False
        self.worker_mark = b""
        self.tried: dict[bytes, bool] = {}
        self.source = PIN
        self.last_read: bytes = b""
        self.reads: list[int] = []
        self.open: dict[int, int] = {}
        self.asked = 0
        self.pings: list[int] = []
        self.is_stopped = False
        self.carry_out(self.machine.start(self.now))

    def carry_out(self, commands: list[Any]) -> None:
        for command in commands:
            match command:
                case ReadPin(number):
                    assert not self.is_stopped
                    self.reads.append(number)
                case StartWorker():
                    assert not self.is_alive, "two workers at once"
                    assert not self.is_stopped
                    assert not self.tried.get(self.last_read), "a refused PIN was tried again"
                    self.is_alive, self.is_told_to_die, self.worker_mark = True, False, self.last_read
                case KillWorker() | EndWorker():
                    self.is_told_to_die = True
                case SendPing(number):
                    assert self.machine.state is TokenState.UP
                    self.pings.append(number)
                case EndRequests(asked, error):
                    assert error.code is ErrorCode.INTERNAL
                    for name in asked:
                        numbers = [number for number, known in self.open.items() if known == name]
                        assert len(numbers) == 1, "ended twice"
                        del self.open[numbers[0]]

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.machine.tick(self.now))
        latest = self.now - (STRAGGLER_FACTOR - 1.0) * 5.0
        assert all(request.deadline > latest for request in self.machine._requests.values()), "one is late"

    @rule(mark=st.sampled_from([PIN, OTHER]))
    def the_pin_is_changed(self, mark: bytes) -> None:
        self.source = mark

    @precondition(lambda self: self.reads)
    @rule(is_readable=st.booleans(), data=st.data())
    def a_pin_was_read(self, is_readable: bool, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self.reads))
        self.reads.remove(number)
        if is_readable:
            self.last_read = self.source
            self.carry_out(self.machine.pin_read(number, self.source, self.now))
        else:
            self.carry_out(self.machine.pin_unreadable(number, "unreadable", self.now))

    @precondition(lambda self: self.is_alive and not self.is_told_to_die)
    @rule()
    def it_opens(self) -> None:
        self.carry_out(self.machine.opened(self.now))

    @precondition(lambda self: self.is_alive and not self.is_told_to_die)
    @rule(kind=st.sampled_from(Failure))
    def opening_fails(self, kind: Failure) -> None:
        if self.machine.state is TokenState.OPENING and kind is Failure.PIN_REFUSED:
            self.tried[self.worker_mark] = True
        self.carry_out(self.machine.open_failed(kind, "no", self.now))

    @precondition(lambda self: self.is_alive)
    @rule()
    def the_worker_ends(self) -> None:
        self.is_alive = False
        self.carry_out(self.machine.worker_ended("it ended", self.now))

    @precondition(lambda self: self.is_alive and not self.is_told_to_die)
    @rule()
    def the_link_is_lost(self) -> None:
        self.carry_out(self.machine.link_lost("it hung up", self.now))

    @rule()
    def somebody_asks(self) -> None:
        self.asked += 1
        number = self.machine.ask(self.asked, self.now, 5.0)
        if isinstance(number, BackendError):
            assert number.code is ErrorCode.BUSY
            assert number.retry_after_s is not None
            assert 0 < number.retry_after_s <= TIMING.retry_max_s + SOON_S
            assert self.machine.state is not TokenState.UP or len(self.open) == 8
        else:
            assert number not in self.open
            self.open[number] = self.asked

    @precondition(lambda self: self.open)
    @rule(data=st.data(), kind=st.sampled_from([None, *Failure]))
    def an_answer_comes(self, data: st.DataObject, kind: Failure | None) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        name = self.open.pop(number)
        if kind is None:
            assert self.machine.answered(number) == name
            return
        if kind is Failure.PIN_REFUSED:
            self.tried[self.worker_mark] = True
        asked, commands = self.machine.failed(number, kind, "no", self.now)
        assert asked == name
        self.carry_out(commands)

    @precondition(lambda self: self.pings)
    @rule()
    def a_pong_comes(self) -> None:
        self.machine.ponged(self.pings.pop())

    @rule()
    def the_operator_says_try(self) -> None:
        self.tried.clear()
        self.carry_out(self.machine.try_again(self.now))

    @precondition(lambda self: not self.is_stopped)
    @rule(really=st.sampled_from([False] * 9 + [True]))
    def it_stops(self, really: bool) -> None:
        if really:
            self.is_stopped = True
            self.carry_out(self.machine.stop(self.now))

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.machine.in_flight == len(self.open)
        if self.machine.state is not TokenState.UP:
            assert not self.open
        if self.is_stopped:
            assert self.machine.state is TokenState.STOPPED
            assert not self.is_alive or self.is_told_to_die

    @invariant()
    def it_never_waits_for_nothing(self) -> None:
        if self.machine.next_tick() is None:
            assert self.machine.state in (TokenState.REPLACING, TokenState.STOPPED)
        if self.machine.state is TokenState.REPLACING:
            assert self.is_alive


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
