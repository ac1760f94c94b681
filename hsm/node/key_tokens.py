"""The tokens of a node as their owner works with them: finds the one that holds a key, runs one operation at a time.

Operations block in the token, so each runs in a thread; those of one token wait for each other, few may wait, and not
for ever: a token that hangs keeps nobody from the others. What goes wrong becomes a `Refused`. Knows neither HTTP nor
what an operation does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hsm.backends.base import KeyAdmin
from hsm.backends.lifecycle import LifecycleProblem, LifecycleReason
from hsm.backends.x509_forms import FormProblem
from hsm.node.blocking import BlockingCalls
from hsm.node.observe import NodeObserver
from hsm.node.opening.opened import OpenToken
from hsm.node.refusals import Refusal, RefusalReason
from hsm.shared.logs import get_logger
from hsm.wire.messages import KeyEntry

T = TypeVar("T")

MAX_WAITING = 16
"""Operations on one token that may wait for each other."""
LOOK_TIMEOUT_S = 60.0
OPERATION_TIMEOUT_S = 300.0
"""Longest time for an operation and those before it; one that hangs in the token is left to its thread."""
_LOOKS = ("list", "show")
_NOTHING: Mapping[str, object] = {}


class Refused(Exception):
    """An operation was not done; `status` is the HTTP status that says so, `sentence` is for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @classmethod
    def because(cls, refusal: Refusal) -> Refused:
        """The same as an exception."""
        return cls(refusal.reason.value, refusal.sentence)


@dataclass(frozen=True)
class OwnedToken:
    """An open token, and whose turn it is to use its owner's tools."""

    token: OpenToken
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        """As the config calls it."""
        return self.token.name

    def knows(self, reference: str) -> bool:
        """Whether one of the keys that the node signs with has this label or SKI. Asks memory only."""
        return any(reference == entry.label or reference.lower() == entry.ski.hex() for entry in self._entries())

    def labels(self) -> set[str]:
        """Of the keys that the node signs with."""
        return {entry.label for entry in self._entries()}

    def _entries(self) -> tuple[KeyEntry, ...]:
        holder = self.token.backend or self.token.awaited
        return holder.keys() if holder is not None else ()


class KeyTokens:
    """All tokens of a node. Used in its event loop."""

    def __init__(self, tokens: Sequence[OpenToken], observer: NodeObserver, calls: BlockingCalls) -> None:
        self._tokens = tuple(OwnedToken(token) for token in tokens)
        self._observer = observer
        self._calls = calls
        self._waiting: dict[str, int] = {}
        self._log = get_logger("management")

    def opened(self, tokens: Sequence[OpenToken]) -> None:
        """From now on there are these."""
        self._tokens = tuple(OwnedToken(token) for token in tokens)

    def all(self) -> tuple[OwnedToken, ...]:
        """Every token. Raises Refused while there is none."""
        if not self._tokens:
            raise Refused(503, "the node's tokens are sealed or still opening; `sealgate node status` tells more")
        return self._tokens

    def named(self, name: str) -> OwnedToken:
        """The token of a name; "" is right where there is only one. Raises Refused."""
        tokens = self.all()
        if not name and len(tokens) == 1:
            return tokens[0]
        names = ", ".join(token.name for token in tokens)
        if not name:
            raise Refused(400, f"say in which token (--token): {names}")
        found = next((token for token in tokens if token.name == name), None)
        if found is None:
            raise Refused(404, f"this node has no token {name!r}; it has {names}")
        return found

    def for_new(self, name: str, label: str) -> OwnedToken:
        """The token in which a key of this label is to be. Raises Refused where another token has that label."""
        chosen = self.named(name)
        for other in self.all():
            if other is not chosen and label in other.labels():
                raise Refused(409, f"token {other.name!r} has a key labelled {label!r} already; choose another label")
        return chosen

    async def holding(self, reference: str, name: str = "") -> OwnedToken:
        """The token that has a key; `name` says which one to ask. Raises Refused where none or several have it."""
        tokens = self.all()
        if name or len(tokens) == 1:
            return self.named(name)
        found = [token for token in tokens if token.knows(reference)]
        if not found:
            # Made a moment ago by somebody else, or in a token that is slow to tell.
            found = await self._ask_for(reference, tokens)
        if len(found) > 1:
            names = " and ".join(repr(token.name) for token in found)
            raise Refused(409, f"the tokens {names} have a key {reference!r}; say which one is meant (--token)")
        return found[0]

    async def _ask_for(self, reference: str, tokens: Sequence[OwnedToken]) -> list[OwnedToken]:
        found: list[OwnedToken] = []
        problems: list[Refused] = []
        for token in tokens:
            try:
                await self._in_turn(token, lambda admin: admin.get(reference), LOOK_TIMEOUT_S)
            except Exception as error:
                refusal = token.token.refusal_of(error)
                if refusal is None or refusal.reason is not RefusalReason.NOT_FOUND:
                    problems.append(self._failure("show", reference, token, error))
            else:
                found.append(token)
        if found:
            return found
        missing = Refused(404, f"no token of this node has a key {reference!r}; list the keys to see their names")
        raise problems[0] if problems else missing

    async def run(
        self,
        token: OwnedToken,
        operation: str,
        key: str,
        work: Callable[[KeyAdmin], T],
        told: Mapping[str, object] = _NOTHING,
    ) -> T:
        """What `work` makes with the token's admin, in a thread, in turn; how it went is counted and logged.

        `told` is logged, too: what was asked for, without anything secret. Raises Refused.
        """
        try:
            result = await self._in_turn(token, work, LOOK_TIMEOUT_S if operation in _LOOKS else OPERATION_TIMEOUT_S)
        except Exception as error:
            self._observer.management_done(operation, is_ok=False)
            raise self._failure(operation, key, token, error) from None
        self._observer.management_done(operation, is_ok=True)
        if operation not in _LOOKS:
            self._log.info("management_done", operation=operation, key=key, token=token.name, **told)
        return result

    async def _in_turn(self, token: OwnedToken, work: Callable[[KeyAdmin], T], timeout_s: float) -> T:
        waiting = self._waiting.get(token.name, 0)
        if waiting >= MAX_WAITING:
            raise Refused(503, f"too many operations on token {token.name!r} wait already; try again later")
        self._waiting[token.name] = waiting + 1
        try:
            async with asyncio.timeout(timeout_s) as limit, token.turn:
                return await self._calls.run(lambda: work(token.token.admin))
        except TimeoutError:
            if not limit.expired():
                raise  # the token's own
            sentence = (
                f"token {token.name!r} was not done within {timeout_s:g} s, and may do it yet; list its keys first"
            )
            raise Refused(503, sentence) from None
        finally:
            self._waiting[token.name] -= 1

    def _failure(self, operation: str, key: str, token: OwnedToken, error: Exception) -> Refused:
        if isinstance(error, Refused):
            return error
        refusal = _refusal_of(error) or token.token.refusal_of(error)
        known = {"operation": operation, "key": key, "token": token.name}
        if refusal is not None:
            self._log.warning("management_refused", **known, error=refusal.sentence)
            return Refused.because(refusal)
        # Nobody knows what a foreign exception's message holds: log its type only.
        self._log.error("management_crashed", **known, error=type(error).__name__)
        return Refused(500, "the operation failed inside the node; its log says more")


def _refusal_of(error: Exception) -> Refusal | None:
    """What is refused before any token is asked."""
    if isinstance(error, LifecycleProblem):
        is_state = error.reason is LifecycleReason.STATE
        return Refusal(RefusalReason.CONFLICT if is_state else RefusalReason.INVALID, error.sentence)
    if isinstance(error, FormProblem):
        return Refusal(RefusalReason.INVALID, error.sentence)
    return None
