"""The errors with which a job can end without any node's fault, in words for people. Pure."""

from __future__ import annotations

from proxy.base.errors import SigningError, SigningReason
from proxy.signing.commands import RoutedJob


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
    if has_node:
        return SigningError(SigningReason.DEADLINE, f"{routed.attempts} attempts failed{last}")
    return SigningError(SigningReason.NO_NODE, f"no node that is up holds key {routed.ski.hex()}{last}")


def nowhere(routed: RoutedJob) -> SigningError:
    """Every node that could have signed said that it never will."""
    if routed.refused and routed.last_error is not None:
        return routed.last_error
    return SigningError(SigningReason.KEY_NOT_FOUND, f"no node holds key {routed.ski.hex()}")
