"""A token that is open, as the rest of the node knows it: how it signs, what its owner may do, how it is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hsm.backends.base import AwaitedBackend, Backend, KeyAdmin
from hsm.node.blocking import BlockingCalls
from hsm.node.refusals import Refusal
from hsm.shared import strict_toml
from hsm.shared.tasks import Tasks

TokenKind = Literal["vault", "pkcs11", "simulated"]


class TokenProblem(Exception):
    """A token can't be opened, and trying again would not help; `str()` is a sentence for the user."""


@dataclass(frozen=True)
class Surroundings:
    """What a token may use of its node."""

    base_dir: Path
    """Folder of the config file."""
    calls: BlockingCalls
    tasks: Tasks
    loop: asyncio.AbstractEventLoop

    def resolve(self, path: str) -> Path:
        """A path of the config."""
        return strict_toml.resolve(self.base_dir, path)


@dataclass(frozen=True, kw_only=True)
class OpenToken:
    """A token that can be asked to sign, and its owner's tools. Exactly one of `backend` and `awaited` is set."""

    name: str
    kind: TokenKind
    backend: Backend | None = None
    awaited: AwaitedBackend | None = None
    places: int
    """Signatures under way at once (for a backend: in threads)."""
    queue: int
    loop_queue: int = 0
    """Requests for cheap keys of a backend that may wait for the event loop."""
    admin: KeyAdmin
    refusal_of: Callable[[Exception], Refusal | None]
    """Turns what `admin` raises when it refuses into data; None for what it was not meant to raise."""
    close: Callable[[], Awaitable[None]]
    """Forgets the keys, ends processes, closes what they came from."""
    state: Callable[[], str] = field(default=lambda: "up")
    """One word for status and metrics: "up", or what it is doing instead."""
    details: Callable[[], Mapping[str, object]] = field(default=dict)
    """More for the status page: JSON values."""
    try_again: Callable[[], None] | None = None
    """The operator wants a token that is away to be opened now, also with a PIN that it refused; None where that is
    never needed."""
    faults: object | None = None
    """The switchboard of a simulated token's faults (hsm.backends.simulated), None for others."""
