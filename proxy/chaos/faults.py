"""The faults by name, in the order in which they are played, and what is expected of each. Values only.

It knows what a fault is called and what may come of it, not how it is brought about (`acts.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Limit(Enum):
    """What the p99 of handshakes may be while a fault is on."""

    TWICE = "2 x before"
    """The node answers, with an error or by its link's end: another is asked at once."""
    ATTEMPT = "attempt timeout + before"
    """The node says nothing: what it has must be waited for once."""
    NONE = "-"
    """Shown, not judged."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault."""

    name: str
    what: str
    """What happens, for people."""
    limit: Limit = Limit.NONE
    hits_all: bool = False
    """Every node has it: handshakes must fail, and fail well."""


FAULTS = {
    plan.name: plan
    for plan in (
        FaultPlan("kill", "SIGKILL to the node, started again at the end", Limit.TWICE),
        FaultPlan("hang", "its HSM answers nothing", Limit.ATTEMPT),
        FaultPlan("freeze", "SIGSTOP to the node: connections stay, nobody is there", Limit.ATTEMPT),
        FaultPlan("slow", "its HSM takes 10 times as long"),
        FaultPlan("flap", "its link is cut for 0.4 s of every second"),
        FaultPlan("error", "its HSM fails every signature", Limit.TWICE),
        FaultPlan("error-some", "its HSM fails 30 % of the signatures", Limit.TWICE),
        FaultPlan("wrong-signature", "its HSM signs wrongly", Limit.TWICE),
        FaultPlan("lost-key", "its HSM has lost the keys", Limit.TWICE),
        FaultPlan("reset", "every second a RST on all its connections", Limit.TWICE),
        FaultPlan("half-open", "bytes vanish in both directions, nothing is closed", Limit.ATTEMPT),
        FaultPlan("all-down", "SIGKILL to every node, started again at the end", hits_all=True),
    )
}
"""By name, in order."""
