"""The words of a token's supervision: the states of its life, and what `Supervision` wants done. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from hsm.backends.base import BackendError

T = TypeVar("T")

PING_INTERVAL_S = 1.0
GRACE_S = 2.0
"""How long a worker that does not hang may take to end: HSMs are short of sessions, and some tokens (SoftHSM2) lose
their state when a process is killed that is just logging in."""


class TokenState(StrEnum):
    """Where a token is in its life."""

    STARTING = "starting"
    """The PIN is being read."""
    OPENING = "opening"
    """The worker loads the library, logs in and lists the keys."""
    UP = "up"
    REPLACING = "replacing"
    """The worker was killed and its end is waited for."""
    BACKING_OFF = "backing_off"
    """The next worker is started after a pause."""
    PIN_REFUSED = "pin_refused"
    """The token refused the PIN; another one is waited for."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a token may take, in seconds."""

    call_timeout_s: float
    open_timeout_s: float
    retry_min_s: float
    retry_max_s: float

    @property
    def ping_interval_s(self) -> float:
        """How often a worker is asked whether it is there: at least twice within the time of a call."""
        return min(PING_INTERVAL_S, self.call_timeout_s / 2)


@dataclass(frozen=True, slots=True)
class ReadPin:
    """Read the PIN; say `pin_read` or `pin_unreadable` with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker with the PIN read last and have it open the token; say how it went. No other worker runs."""


@dataclass(frozen=True, slots=True)
class EndWorker:
    """Hang up, so that the worker ends the library's sessions and itself; say `worker_ended` when it is gone."""


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End the worker at once, whatever it does, and say `worker_ended` when it is gone."""


@dataclass(frozen=True, slots=True)
class SendPing:
    """Ask the worker whether it is there; its answer goes to `ponged`."""

    number: int


@dataclass(frozen=True, slots=True)
class EndRequests(Generic[T]):
    """These requests end with this error."""

    asked: tuple[T, ...]
    error: BackendError


Command: TypeAlias = ReadPin | StartWorker | EndWorker | KillWorker | SendPing | EndRequests[T]


class RefusedPins:
    """The PINs that the token refused, as marks from which no PIN can be told."""

    def __init__(self) -> None:
        self._marks: set[bytes] = set()

    def add(self, mark: bytes) -> None:
        """The token refused this one."""
        self._marks.add(mark)

    def __contains__(self, mark: bytes) -> bool:
        return mark in self._marks

    def forgive(self) -> None:
        """The operator says that they may be tried again."""
        self._marks.clear()


@dataclass(slots=True)
class Counts:
    """What happened to a token since the node started."""

    workers: int = 0
    """Worker processes that were started."""
    openings: int = 0
    """Times the token was opened."""
    crashes: int = 0
    """Workers that ended by themselves."""
    hangs: int = 0
    """Workers that were killed because they did not answer."""
