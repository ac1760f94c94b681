"""Greenlets that run handshake steps, with a step of the test's own instead of OpenSSL's."""

from __future__ import annotations

import threading
from typing import Any

import greenlet
import pytest

from hsm.wire.schemes import Scheme
from proxy.tls.callbacks import (
    MAX_IDLE,
    SignatureRefused,
    SignatureWanted,
    _pool,
    ask_for_signature,
    resume_step,
    start_step,
)


class Step:
    """Asks for `wanted` signatures, then ends with 0, or with 3 where one was refused."""

    def __init__(self, wanted: int = 1) -> None:
        self.wanted = wanted
        self.signatures: list[bytes] = []

    def choose_site(self, server_name: bytes) -> bool:
        return server_name == b"a.test"

    def choose_protocol(self, offered: bytes) -> Any:
        return None

    def step(self) -> int:
        try:
            for _ in range(self.wanted):
                self.signatures.append(ask_for_signature(bytes(20), "ed25519", b"message"))
        except SignatureRefused:
            return 3
        return 0


def test_a_step_without_a_signature_ends_at_once() -> None:
    runner, outcome = start_step(Step(0))
    assert outcome == 0
    assert runner.chooser is None


def test_a_step_waits_for_each_signature() -> None:
    step = Step(2)
    runner, outcome = start_step(step)
    assert outcome == SignatureWanted(bytes(20), Scheme.ED25519, b"message")
    assert runner.chooser is step
    assert isinstance(resume_step(runner, b"one"), SignatureWanted)
    assert resume_step(runner, b"two") == 0
    assert step.signatures == [b"one", b"two"]


def test_a_refusal_is_raised_where_the_signature_was_asked_for() -> None:
    runner, _ = start_step(Step())
    assert resume_step(runner, None) == 3


def test_greenlets_are_used_again_and_the_pool_is_bounded() -> None:
    suspended = [start_step(Step())[0] for _ in range(2 * MAX_IDLE)]
    assert len({id(runner) for runner in suspended}) == 2 * MAX_IDLE
    for runner in suspended:
        resume_step(runner, b"signature")
    assert len(_pool.idle) == MAX_IDLE
    again, _ = start_step(Step(0))
    assert again in suspended


def test_the_one_who_resumes_gets_the_outcome() -> None:
    runner, _ = start_step(Step())
    outcomes: list[object] = []
    greenlet.greenlet(lambda: outcomes.append(resume_step(runner, b"signature"))).switch()
    assert outcomes == [0]


def test_a_signature_outside_a_handshake_is_refused() -> None:
    with pytest.raises(RuntimeError, match="outside a handshake"):
        ask_for_signature(bytes(20), "ed25519", b"")
    with pytest.raises(RuntimeError, match="outside a handshake"):
        greenlet.greenlet(ask_for_signature).switch(bytes(20), "ed25519", b"")


def test_each_thread_has_its_own_pool() -> None:
    start_step(Step(0))
    outcomes: list[object] = []

    def work() -> None:
        outcomes.append(len(_pool.idle))
        outcomes.append(start_step(Step(0))[1])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert outcomes == [0, 0]
