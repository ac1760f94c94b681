"""What all connections of one listener in one worker share: their surroundings, given once and then only read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.base.errors import SigningError
from proxy.base.jobs import SignJob
from proxy.base.observe import ProxyObserver
from proxy.base.policy import RoutingPolicy
from proxy.edge.door import Doors
from proxy.edge.greeting import no_pressure
from proxy.signing.pressure import Pressure
from proxy.tls.engine import TlsEngine


class JobHandle(Protocol):
    """A job that is under way."""

    def cancel(self) -> None:
        """Nobody waits any more; `on_done` is not called."""


JobDone = Callable[["bytes | SigningError"], None]
Submit = Callable[[SignJob, JobDone], JobHandle]
"""Ask for a signature. `on_done` is called once, perhaps before `submit` returns, and never after `cancel`."""


@dataclass(frozen=True, slots=True)
class EdgeServices:
    """What a connection needs of other rooms."""

    new_engine: Callable[[], TlsEngine]
    submit: Submit
    new_protocol: Callable[[], asyncio.Protocol]
    observer: ProxyObserver
    pressure: Callable[[str], Pressure] = no_pressure
    """Whether signatures are scarce for a site, or ("") for any. Asked in every handshake, so it must be quick."""
    doors: Doors = field(default_factory=lambda: Doors(RoutingPolicy()))
    """For all listeners of the worker, because they share its signatures."""
    site_of: Callable[[str], str] = lambda server_name: server_name
    """The site for a client's cleaned SNI ("": none sent); "" where there is none."""


@dataclass(frozen=True, slots=True)
class EdgeTimes:
    """How long the edge waits, in seconds."""

    handshake_s: float = 10.0
    """From the TCP connection to the end of the handshake."""
    job_s: float = 5.0
    """For one signature."""
    linger_s: float = 5.0
    """After the last byte to a client: for its own goodbye. While it takes nothing, output is kept this long."""
