"""What can be wrong with a simulated device: kinds of faults, their parameters, which of them fit together.

Pure values; `hsm.backends.simulated.device` lives with them. The JSON form of a `Fault` is what the management socket
takes.
"""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

DEFAULT_FACTOR = 10.0
DEFAULT_RESTART_S = 10.0
MAX_DURATION_S = 86_400.0
ALL_KEYS = "*"


class FaultKind(StrEnum):
    """What goes wrong."""

    SLOW = "slow"
    """Everything takes `factor` times as long, also what is under way; capacity falls by as much."""
    HANG = "hang"
    """Nothing moves until it is cleared; then everything goes on where it stood."""
    ERROR = "error"
    """A share (`rate`) of the signatures fails after the usual time."""
    WRONG_SIGNATURE = "wrong-signature"
    """A share (`rate`) of the signatures is well-formed, and wrong."""
    LOST_KEY = "lost-key"
    """The device does not know the keys that `key` names."""
    CRASH = "crash"
    """The device restarts: what it had is lost, and nothing works for `duration_s`."""


_TAKES = {
    FaultKind.SLOW: frozenset({"factor"}),
    FaultKind.HANG: frozenset[str](),
    FaultKind.ERROR: frozenset({"rate", "key"}),
    FaultKind.WRONG_SIGNATURE: frozenset({"rate", "key"}),
    FaultKind.LOST_KEY: frozenset({"key"}),
    FaultKind.CRASH: frozenset[str](),
}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One fault, as it is asked for. `problem` says whether its parameters fit its kind."""

    kind: FaultKind
    factor: Annotated[float, Meta(ge=1, le=1_000_000)] | None = None
    """How many times as long (slow); default 10."""
    rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    """Share of the signatures (error, wrong-signature); default: all."""
    key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    """Pattern of labels (error, wrong-signature, lost-key), such as "www-*"; default: all keys."""
    duration_s: Annotated[float, Meta(gt=0, le=MAX_DURATION_S)] | None = None
    """It ends by itself after so many seconds; default: when it is cleared, and 10 s for a crash."""

    @property
    def name(self) -> str:
        """What it is cleared by. Of faults of one name there is one at a time: the newest."""
        return self.kind.value if self.key is None else f"{self.kind.value}:{self.key}"

    def problem(self) -> str | None:
        """What is wrong with it, as a sentence; None where nothing is."""
        for field in ("factor", "rate", "key"):
            if getattr(self, field) is not None and field not in _TAKES[self.kind]:
                takes = " and ".join(sorted(_TAKES[self.kind] | {"duration_s"}))
                article = "an" if self.kind is FaultKind.ERROR else "a"
                return f"{article} {self.kind.value} fault has no {field}; it takes {takes}"
        return None

    def concerns(self, label: str) -> bool:
        """Whether it is about the key of this label."""
        return self.key is None or fnmatchcase(label, self.key)


class ActiveFault(msgspec.Struct, frozen=True, kw_only=True):
    """A fault that is on. Times are seconds on the clock of whoever drives the device."""

    fault: Fault
    since: float
    until: float | None
    """None: until it is cleared."""
