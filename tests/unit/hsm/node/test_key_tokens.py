"""Which token an owner's operation goes to, and what becomes of one that fails; over tokens in memory."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from hsm.backends.base import KeyAdmin
from hsm.backends.lifecycle import LifecycleProblem, LifecycleReason
from hsm.backends.x509_forms import FormProblem
from hsm.node import key_tokens
from hsm.node.blocking import BlockingCalls
from hsm.node.key_tokens import KeyTokens, Refused
from hsm.node.observe import NodeObserver
from hsm.node.opening.opened import OpenToken
from hsm.node.refusals import Refusal, RefusalReason
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import KeyType
from tests.support.node import FakeBackend


class TokenRefused(Exception):
    def __init__(self, reason: RefusalReason, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = Refusal(reason, sentence)


def refusal_of(error: Exception) -> Refusal | None:
    return error.refusal if isinstance(error, TokenRefused) else None


@dataclass
class Admin:
    """Says of every key what it was told to say."""

    answer: Exception | str

    def get(self, reference: str) -> str:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


MISSING = TokenRefused(RefusalReason.NOT_FOUND, "no such key")


async def close() -> None:
    pass


def token(name: str, *labels: str, admin: Any = None) -> OpenToken:
    entries = {KeyEntry(label.encode().ljust(20, b"."), KeyType.P256, label): "cheap" for label in labels}
    return OpenToken(
        name=name,
        kind="vault",
        backend=FakeBackend(entries),  # type: ignore[arg-type]
        places=1,
        queue=1,
        admin=cast("KeyAdmin", admin or Admin(MISSING)),
        refusal_of=refusal_of,
        close=close,
    )


def tokens(*given: OpenToken) -> KeyTokens:
    return KeyTokens(given, NodeObserver(), BlockingCalls())


async def test_a_key_is_in_the_token_that_knows_it() -> None:
    known = tokens(token("a", "www"), token("b", "mail"))
    ski = b"mail".ljust(20, b".").hex()
    for reference, name in (("www", "a"), ("mail", "b"), (ski, "b"), (ski.upper(), "b")):
        assert (await known.holding(reference)).name == name
    assert (await known.holding("mail", "a")).name == "a", "whoever names the token is believed"


async def test_tokens_are_asked_for_what_nobody_knows() -> None:
    assert (await tokens(token("a"), token("b", admin=Admin("it"))).holding("new")).name == "b"
    with capture_logs() as logs, pytest.raises(Refused, match="no token of this node has a key 'new'") as caught:
        await tokens(token("a"), token("b")).holding("new")
    assert (caught.value.status, logs) == (404, []), "to ask is no failure of a token"
    with pytest.raises(Refused, match="'a' and 'b' have a key 'new'") as caught:
        await tokens(token("a", admin=Admin("it")), token("b", admin=Admin("it"))).holding("new")
    assert caught.value.status == 409


async def test_a_token_that_can_not_tell_is_not_taken_for_one_without_the_key() -> None:
    away = Admin(TokenRefused(RefusalReason.UNAVAILABLE, "the HSM is away"))
    with pytest.raises(Refused, match="the HSM is away") as caught:
        await tokens(token("a", admin=away), token("b")).holding("new")
    assert caught.value.status == 503
    assert (await tokens(token("a", admin=away), token("b", admin=Admin("it"))).holding("new")).name == "b"


def test_a_new_key_needs_a_token_and_a_label_of_its_own() -> None:
    assert tokens(token("a")).for_new("", "www").name == "a"
    known = tokens(token("a", "www"), token("b", "mail"))
    assert known.for_new("b", "new").name == "b"
    for name, label, status in (("", "new", 400), ("c", "new", 404), ("b", "www", 409)):
        with pytest.raises(Refused) as caught:
            known.for_new(name, label)
        assert caught.value.status == status
    assert known.for_new("a", "www").name == "a", "its own labels are its own affair"


def test_without_tokens_everything_is_refused_for_now() -> None:
    none = tokens()
    for attempt in (none.all, lambda: none.named("a"), lambda: none.for_new("", "x")):
        with pytest.raises(Refused, match="sealed or still opening") as caught:
            attempt()
        assert caught.value.status == 503
    none.opened((token("a"),))
    assert [each.name for each in none.all()] == ["a"]


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (LifecycleProblem(LifecycleReason.STATE, "it is retired"), 409, "it is retired"),
        (LifecycleProblem(LifecycleReason.INVALID, "it makes no sense"), 400, "it makes no sense"),
        (FormProblem("no name"), 400, "no name"),
        (TokenRefused(RefusalReason.UNAVAILABLE, "away"), 503, "away"),
        (RuntimeError("PIN 1234"), 500, "the operation failed inside the node; its log says more"),
    ],
)
async def test_what_goes_wrong_is_a_sentence_and_a_line_in_the_log(
    error: Exception, status: int, sentence: str
) -> None:
    known = tokens(token("a", admin=Admin(error)))
    with capture_logs() as logs, pytest.raises(Refused) as caught:
        await known.run(known.named(""), "show", "www", lambda admin: admin.get("www"))
    assert (caught.value.status, caught.value.sentence) == (status, sentence)
    (line,) = logs
    assert (line["operation"], line["key"], line["token"]) == ("show", "www", "a")
    assert "1234" not in str(logs)


async def test_what_was_done_is_logged_with_its_token() -> None:
    known = tokens(token("a", admin=Admin("it")))
    with capture_logs() as logs:
        assert await known.run(known.named(""), "retire", "www", lambda admin: "done") == "done"
        assert await known.run(known.named(""), "show", "www", lambda admin: "seen") == "seen"
    assert logs == [
        {"event": "management_done", "log_level": "info", "operation": "retire", "key": "www", "token": "a"}
        | {key: value for key, value in logs[0].items() if key == "room"}
    ]


async def test_a_token_that_hangs_holds_up_no_other() -> None:
    gate = threading.Event()
    known = tokens(token("slow"), token("quick"))
    slow = asyncio.create_task(known.run(known.named("slow"), "list", "", lambda _: gate.wait(10)))
    second = asyncio.create_task(known.run(known.named("slow"), "list", "", lambda _: "second"))
    assert await known.run(known.named("quick"), "list", "", lambda _: "at once") == "at once"
    assert not second.done(), "one at a time in one token"
    gate.set()
    assert await slow is True
    assert await second == "second"


class HangingAdmin:
    """Does nothing until it may."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def get(self, reference: str) -> str:
        assert self.gate.wait(20)
        return reference


async def test_a_token_that_hangs_keeps_nobody_from_the_others() -> None:
    hanging = HangingAdmin()
    owned = tokens(token("stuck", admin=hanging), token("good", admin=Admin("here")))
    stuck, good = owned.all()
    waiting = [
        asyncio.create_task(owned.run(stuck, "set", "k", lambda admin: admin.get("k")))
        for _ in range(key_tokens.MAX_WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="operations on token 'stuck' wait already"):
        await owned.run(stuck, "set", "k", lambda admin: admin.get("k"))
    assert await owned.run(good, "set", "k", lambda admin: admin.get("k")) == "here"
    hanging.gate.set()
    assert await asyncio.gather(*waiting) == ["k"] * key_tokens.MAX_WAITING


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_tokens, "LOOK_TIMEOUT_S", 0.05)
    hanging = HangingAdmin()
    owned = tokens(token("stuck", admin=hanging))
    (stuck,) = owned.all()
    with pytest.raises(Refused, match="was not done within") as caught:
        await owned.run(stuck, "show", "k", lambda admin: admin.get("k"))
    assert caught.value.status == 503
    hanging.gate.set()
    assert await owned.run(stuck, "show", "k", lambda admin: admin.get("k")) == "k", "its turn did not get lost"


async def test_a_timeout_of_the_token_is_its_own() -> None:
    owned = tokens(token("one", admin=Admin(TimeoutError("the disk"))))
    with capture_logs() as lines, pytest.raises(Refused) as caught:
        await owned.run(owned.all()[0], "show", "k", lambda admin: admin.get("k"))
    assert caught.value.status == 500
    assert [line["error"] for line in lines] == ["TimeoutError"]
