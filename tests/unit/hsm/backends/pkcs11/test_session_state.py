from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.session_state import Attempt, SessionState, Step

KEY, OTHER = b"k" * 20, b"o" * 20
FRESH, OPENED, LOGGED_IN, READY = Step.OPEN, Step.LOGIN, Step.FIND, Step.SIGN


def state_at(step: Step) -> SessionState:
    """A session whose next step for KEY is this one."""
    state = SessionState()
    if step is not Step.OPEN:
        state.opened(is_logged_in=step is not Step.LOGIN)
    if step is Step.SIGN:
        state.found(KEY, 1)
        state.found(OTHER, 2)
    assert state.step(KEY) is step
    return state


def test_a_new_session_is_opened_logged_in_and_knows_its_key() -> None:
    state = SessionState()
    assert state.step(KEY) is Step.OPEN
    state.opened(is_logged_in=False)
    assert state.step(KEY) is Step.LOGIN
    state.logged_in()
    assert state.step(KEY) is Step.FIND
    state.found(KEY, 5)
    assert state.step(KEY) is Step.SIGN
    assert state.step(OTHER) is Step.FIND


def test_a_login_that_holds_is_not_made_again() -> None:
    state = SessionState()
    state.opened(is_logged_in=True)
    assert state.step(KEY) is Step.FIND


@pytest.mark.parametrize("done", ["opened", "logged_in"])
def test_handles_do_not_outlive_session_or_login(done: str) -> None:
    state = state_at(READY)
    state.opened(is_logged_in=True) if done == "opened" else state.logged_in()
    assert state.handles == {}


TRANSITIONS = [
    # where it failed, with what -> the next step for the key, and whether the request goes on
    *[
        (at, failure, at, False)
        for at in Step
        for failure in (Failure.BUSY, Failure.UNFIT, Failure.INVALID, Failure.BROKEN)
    ],
    *[(at, Failure.SESSION_LOST, Step.OPEN, True) for at in Step],
    *[(at, Failure.TOKEN_GONE, Step.OPEN, False) for at in Step],
    (Step.OPEN, Failure.LOGGED_OUT, Step.OPEN, True),
    (Step.LOGIN, Failure.LOGGED_OUT, Step.LOGIN, True),
    (Step.FIND, Failure.LOGGED_OUT, Step.LOGIN, True),
    (Step.SIGN, Failure.LOGGED_OUT, Step.LOGIN, True),
    (Step.OPEN, Failure.PIN_REFUSED, Step.OPEN, False),
    (Step.LOGIN, Failure.PIN_REFUSED, Step.LOGIN, False),
    (Step.FIND, Failure.PIN_REFUSED, Step.LOGIN, False),
    (Step.SIGN, Failure.PIN_REFUSED, Step.LOGIN, False),
    (Step.OPEN, Failure.KEY_GONE, Step.OPEN, True),
    (Step.LOGIN, Failure.KEY_GONE, Step.LOGIN, True),
    (Step.FIND, Failure.KEY_GONE, Step.FIND, True),
    (Step.SIGN, Failure.KEY_GONE, Step.FIND, True),
]


def test_the_table_names_every_transition() -> None:
    assert {(at, failure) for at, failure, _, _ in TRANSITIONS} == {(s, f) for s in Step for f in Failure}


@pytest.mark.parametrize(("at", "failure", "then", "goes_on"), TRANSITIONS)
def test_transition(at: Step, failure: Failure, then: Step, goes_on: bool) -> None:
    state = state_at(at)
    attempt = Attempt(KEY)
    assert attempt.goes_on_after(failure, state) is goes_on
    assert state.step(KEY) is then
    # The same again ends the request, and leaves the session such that the next one begins with what is missing.
    assert attempt.goes_on_after(failure, state) is False
    assert state.step(KEY) is then
    assert Attempt(KEY).goes_on_after(failure, state) is goes_on


@pytest.mark.parametrize(
    ("failure", "other_is_known"),
    [(Failure.KEY_GONE, True), (Failure.LOGGED_OUT, False), (Failure.SESSION_LOST, False), (Failure.BUSY, True)],
)
def test_what_becomes_of_other_keys(failure: Failure, other_is_known: bool) -> None:
    state = state_at(READY)
    Attempt(KEY).goes_on_after(failure, state)
    assert (OTHER in state.handles) is other_is_known


def test_a_request_may_heal_from_each_kind_of_loss_once() -> None:
    state, attempt = state_at(READY), Attempt(KEY)
    for failure in (Failure.KEY_GONE, Failure.LOGGED_OUT, Failure.SESSION_LOST):
        assert attempt.goes_on_after(failure, state)
    for failure in Failure:
        assert not attempt.goes_on_after(failure, state)


@given(st.lists(st.sampled_from(Failure), max_size=20))
def test_every_request_ends_and_no_session_is_beyond_repair(failures: list[Failure]) -> None:
    state, attempt = state_at(READY), Attempt(KEY)
    goes_on = [attempt.goes_on_after(failure, state) for failure in failures]
    assert sum(goes_on) <= 3
    for _ in range(4):
        match state.step(KEY):
            case Step.OPEN:
                state.opened(is_logged_in=False)
            case Step.LOGIN:
                state.logged_in()
            case Step.FIND:
                state.found(KEY, 3)
    assert state.step(KEY) is Step.SIGN
