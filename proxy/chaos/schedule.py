"""When handshakes are due. Pure: an open loop, whose arrivals never wait for those before them.

Clients of a site do not know of each other, so they come as a Poisson process. A fixed seed gives the same arrivals
each time, and so the same bursts.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random


def arrivals(rate_per_s: float, seed: int) -> Iterator[float]:
    """Endless times in seconds after the start, `rate_per_s` of them per second on average. Raises ValueError."""
    if not rate_per_s > 0:
        raise ValueError(f"a rate is above 0, not {rate_per_s:g}")
    return _arrivals(rate_per_s, Random(seed))


def _arrivals(rate_per_s: float, rng: Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += rng.expovariate(rate_per_s)
        yield due
