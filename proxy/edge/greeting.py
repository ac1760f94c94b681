"""The door as the connections of one listener meet it: before an engine is made, and before a signature is asked for.

A client that shows a session is let in without a signature's worth of capacity. Whether the session is any good, only
the engine finds out; where it is not, the handshake asks for a signature, and the door is asked again.
"""

from __future__ import annotations

import asyncio
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from proxy.base.errors import TlsReason
from proxy.base.observe import DoorDecision
from proxy.edge.info import address_of
from proxy.signing.pressure import NO_PRESSURE, Pressure
from proxy.tls.hello import NEED_MORE, NOT_A_HELLO, peek_hello

if TYPE_CHECKING:
    from proxy.edge.shared import EdgeServices

OVERLOADED_ALERT: Final = bytes((21, 3, 3, 0, 2, 2, 80))
"""The record of a fatal internal_error (RFC 8446 5.1, 6.2). Nothing is encrypted yet where it is sent."""


class Greeting(Enum):
    """What to do with a client that has begun to speak."""

    WAIT = auto()
    """Its ClientHello is not whole yet."""
    LET_IN = auto()
    SHED = auto()


class Doorway:
    """One listener's way to the doors that all listeners of the worker share."""

    __slots__ = ("_doors", "listener", "observer", "pressure", "site_of")

    def __init__(self, listener: str, services: EdgeServices) -> None:
        self.listener = listener
        self.observer = services.observer
        self.pressure = no_pressure if services.doors.is_open else services.pressure
        self.site_of = services.site_of
        self._doors = services.doors

    def decide(self, site: str, client_ip: str, pressure: Pressure, *, offers_session: bool) -> DoorDecision:
        """Ask the site's door, and count what it says."""
        now = time.monotonic()
        decision = self._doors.decide(site, client_ip, pressure.rate_per_s, now, offers_session=offers_session)
        self.observer.door_decided(self.listener, decision)
        return decision


class Visitor:
    """One client's handshake: whose it is, since when, and whether its signature is granted."""

    __slots__ = ("_admitted_to", "_doorway", "_heard", "address", "site", "started")

    def __init__(self, doorway: Doorway) -> None:
        self._doorway = doorway
        self._heard = b""
        self._admitted_to: str | None = None
        self.address = ("", 0)
        self.site = ""
        """Of the config, where its hello was looked at."""
        self.started = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it has not said a word yet."""
        return self.started == 0.0

    def begin(self, tcp: asyncio.BaseTransport | None) -> None:
        """The first byte is here, or never came: a handshake that is counted."""
        self.started = time.monotonic()
        self.address = address_of(tcp, "peername")
        self._doorway.observer.handshake_started(self._doorway.listener)

    def fail(self, site: str, reason: TlsReason) -> None:
        """Count the handshake's end without a session."""
        self._doorway.observer.handshake_failed(site, reason, time.monotonic() - self.started)

    def greet(self, data: bytes) -> tuple[Greeting, bytes]:
        """Judge the client by all that it has said so far, which is given back where it is let in.

        While there is no shortage of signatures, nothing is looked at.
        """
        if self._heard:
            data, self._heard = self._heard + data, b""
        if not self._doorway.pressure("").is_short:
            return Greeting.LET_IN, data
        hello = peek_hello(data)
        if hello is NEED_MORE:
            self._heard = data
            return Greeting.WAIT, b""
        if hello is NOT_A_HELLO:
            return Greeting.LET_IN, data  # the engine says what is wrong, and needs no key exchange for that
        self.site = site = self._doorway.site_of(hello.server_name or "")
        pressure = self._doorway.pressure(site) if site else NO_PRESSURE
        if not pressure.is_short:
            return Greeting.LET_IN, data  # what is short is another site's, or the engine knows no such site
        decision = self._doorway.decide(site, self.address[0], pressure, offers_session=hello.offers_session)
        if decision is DoorDecision.SHED:
            return Greeting.SHED, b""
        self._admitted_to = site if decision is DoorDecision.ADMITTED else None
        return Greeting.LET_IN, data

    def may_sign(self, site: str) -> bool:
        """Whether its handshake may have the signature that it turns out to need.

        The door is asked once for each signature: here, where it let the client in for a session that is none of
        ours, where there was no shortage yet when it came, or where the handshake turned out to be for another site
        than its first words were (a second ClientHello may name another server).
        """
        if site == self._admitted_to:
            return True
        pressure = self._doorway.pressure(site)
        if not pressure.is_short:
            return True
        return self._doorway.decide(site, self.address[0], pressure, offers_session=False) is DoorDecision.ADMITTED


def no_pressure(_site: str) -> Pressure:
    """Never short."""
    return NO_PRESSURE
