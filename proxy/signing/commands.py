"""What travels through the router: a job on its way, an attempt, and the commands that tell the shell what to do."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.base.errors import SigningError
from proxy.base.jobs import SignJob
from proxy.signing.selection import Seat


class RoutedJob:
    """One job from submission to its end; the router alone writes to it, `owner` belongs to the shell."""

    __slots__ = (
        "attempt",
        "attempts",
        "deadline",
        "hedge",
        "is_over",
        "job",
        "last_error",
        "not_before",
        "owes_retry",
        "owner",
        "place",
        "refused",
        "rounds",
        "site",
        "ski",
        "started",
        "tried",
        "waits_until",
    )

    def __init__(self, job: SignJob, started: float, deadline: float, owner: Any = None) -> None:
        self.job = job
        self.ski = job.ski
        self.site = job.site
        self.started = started
        self.deadline = deadline
        """The job's own deadline, or the policy's when that comes earlier."""
        self.owner = owner
        self.is_over = False
        self.attempt: Attempt | None = None
        """Where it is now; None while it waits."""
        self.hedge: Attempt | None = None
        """The second node that is asked beside `attempt`."""
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
        self.owes_retry = False
        """Its next attempt is to be paid for first."""
        self.waits_until = 0.0
        """While no node of its key is up, it waits until this; 0 while one is."""
        self.last_error: SigningError | None = None
        self.place = 0


class Attempt:
    """One job at one node."""

    __slots__ = ("deadline", "is_hedge", "is_over", "node", "request_id", "routed", "seat", "started", "wire")

    def __init__(
        self, routed: RoutedJob, seat: Seat, started: float, deadline: float, *, is_hedge: bool = False
    ) -> None:
        self.routed = routed
        self.seat = seat
        self.node = seat.name
        self.started = started
        self.deadline = deadline
        """When the shell must report `on_attempt_timeout`; never later than the job's deadline."""
        self.is_hedge = is_hedge
        """Another attempt of the same job was under way when this began."""
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
    is_outrun: bool = False
    """Another node was faster (else: the client went away, or the proxy stops)."""


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The job has its signature."""

    routed: RoutedJob
    signature: bytes
    node: str
    is_hedge: bool = False
    """The second node that was asked made it."""


class Fail(msgspec.Struct, frozen=True, gc=False):
    """The job ends without a signature."""

    routed: RoutedJob
    error: SigningError


class DelayRetry(msgspec.Struct, frozen=True, gc=False):
    """Nothing is to be done: retries have used up their share, so this job's waits. To be counted."""

    routed: RoutedJob


class NodeEjected(msgspec.Struct, frozen=True, gc=False):
    """Bad results took a node out of rotation, or one of its keys."""

    node: str
    ski: bytes
    """b"" for the whole node."""
    why: str
    until: float


class NodeReturned(msgspec.Struct, frozen=True, gc=False):
    """The time of an ejection is over."""

    node: str
    ski: bytes


Command = SendTo | CancelAttempt | Finish | Fail | DelayRetry | NodeEjected | NodeReturned
