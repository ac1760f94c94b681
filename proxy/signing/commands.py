"""What travels through the router: a job on its way, an attempt, and the commands that tell the shell what to do."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.base.errors import SigningError
from proxy.base.jobs import SignJob
from proxy.signing.selection import NodeLoad


class RoutedJob:
    """One job from submission to its end; the router alone writes to it, `owner` belongs to the shell."""

    __slots__ = (
        "attempt",
        "attempts",
        "deadline",
        "is_over",
        "job",
        "last_error",
        "not_before",
        "owner",
        "place",
        "refused",
        "rounds",
        "ski",
        "started",
        "tried",
    )

    def __init__(self, job: SignJob, started: float, deadline: float, owner: Any = None) -> None:
        self.job = job
        self.ski = job.ski
        self.started = started
        self.deadline = deadline
        """The job's own deadline, or the policy's when that comes earlier."""
        self.owner = owner
        self.is_over = False
        self.attempt: Attempt | None = None
        """Where it is now; None while it waits."""
        self.attempts = 0
        """Attempts that failed; busy answers are not counted."""
        self.rounds = 0
        """How often all nodes were tried."""
        self.tried: tuple[str, ...] = ()
        """Nodes that failed it in this round; they are asked again only when no other node can be."""
        self.refused: tuple[str, ...] = ()
        """Nodes that will never sign it, because their access list says so."""
        self.not_before = 0.0
        """No node is asked a second time before this."""
        self.last_error: SigningError | None = None
        self.place = 0


class Attempt:
    """One job at one node."""

    __slots__ = ("deadline", "is_over", "load", "node", "request_id", "routed", "started", "wire")

    def __init__(self, routed: RoutedJob, load: NodeLoad, started: float, deadline: float) -> None:
        self.routed = routed
        self.load = load
        self.node = load.name
        self.started = started
        self.deadline = deadline
        """When the shell must report `on_attempt_timeout`; never later than the job's deadline."""
        self.is_over = False
        self.wire: Any = None
        """The link it was sent on; the shell's."""
        self.request_id = 0
        """Its id on that link; the shell's."""


class SendTo(msgspec.Struct, frozen=True, gc=False):
    """Ask `attempt.node` to sign `attempt.routed.job`."""

    attempt: Attempt


class CancelAttempt(msgspec.Struct, frozen=True, gc=False):
    """Tell the node that nobody waits for this attempt."""

    attempt: Attempt


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The job has its signature."""

    routed: RoutedJob
    signature: bytes
    node: str


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The job ends without a signature."""

    routed: RoutedJob
    error: SigningError


Command = SendTo | CancelAttempt | Finish | Fail
