"""What the end of an attempt means for its job, and the errors with which a job ends, in words for people. Pure."""

from __future__ import annotations

from proxy.base.errors import SigningError, SigningReason
from proxy.signing.commands import RoutedJob

UNCOUNTED = frozenset({SigningReason.BUSY, SigningReason.DRAINING, SigningReason.KEY_NOT_FOUND, SigningReason.DENIED})
"""Ends of an attempt that cost the node nothing: the next one is asked at once, as often as it takes."""
PAID = frozenset({SigningReason.TIMEOUT, SigningReason.NODE_ERROR, SigningReason.WRONG_SIGNATURE})
"""Ends after which the next attempt is more work for the nodes, and paid for by the retry budget."""
NARROWS = frozenset({SigningReason.DRAINING, SigningReason.KEY_NOT_FOUND})
"""Ends after which perhaps no node is left that may be asked for the key."""


def note(routed: RoutedJob, node: str, error: SigningError, now: float, rest_s: float) -> None:
    """An attempt of the job has failed; `rest_s` is the rest after its first round, which grows with each."""
    routed.last_error = error
    if node not in routed.tried:
        routed.tried += (node,)
    if error.reason is SigningReason.DENIED:
        routed.refused += (node,)
    if error.reason not in UNCOUNTED:
        routed.attempts += 1
        routed.not_before = now + rest_s * (1 << min(routed.rounds, 8))


def stopped() -> SigningError:
    """The proxy is stopping."""
    return SigningError(SigningReason.STOPPED, "the proxy is stopping")


def queue_full(waiting: int) -> SigningError:
    """As many jobs wait as may."""
    return SigningError(SigningReason.QUEUE_FULL, f"{waiting} jobs wait already")


def shed(wait_s: float, waiting: int) -> SigningError:
    """Its turn would not come in time."""
    return SigningError(
        SigningReason.SHED, f"its turn would come in about {wait_s:.1f} s, and {waiting} jobs wait already"
    )


def too_late(routed: RoutedJob, *, has_node: bool) -> SigningError:
    """Nobody waits any longer; `has_node` tells whether a node could have been asked at the end."""
    last = f"; last answer: {routed.last_error}" if routed.last_error else ""
    if has_node and not routed.attempts:
        return SigningError(SigningReason.DEADLINE, f"no node had room for it in time{last}")
    if has_node:
        return SigningError(SigningReason.DEADLINE, f"{routed.attempts} attempts failed{last}")
    return SigningError(SigningReason.NO_NODE, f"no node that is up holds key {routed.ski.hex()}{last}")


def nowhere(routed: RoutedJob) -> SigningError:
    """Every node that could have signed said that it never will."""
    if routed.refused and routed.last_error is not None:
        return routed.last_error
    return SigningError(SigningReason.KEY_NOT_FOUND, f"no node holds key {routed.ski.hex()}")
