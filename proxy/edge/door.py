"""Who is let in while signatures are scarce: sessions first, and a fair share for everybody else. Pure: `now` in.

Theory of operation
-------------------
Clients are told apart by the range their address is in (`routing.door_prefix_v4`, `door_prefix_v6`), because one client
can have many addresses of one range, but not many ranges. A range stands in one of SLOTS places by a keyed hash of it:
memory is bounded, and who does not know the salt cannot aim at the place of somebody else.

*Level.* How many full handshakes each range asks for is measured in windows of WINDOW_S, older ones counting less.
After each window the water level is found: the rate at which every range may go so that all of them together, the
modest ones with what they ask for and the others with the level, make up the rate of signatures (max-min fairness).

*Credit.* What a range takes is noted, and forgotten again at the level. So its credit is the full one while it stays
below the level, and gone where it would take more.

*Pot.* Signatures fall into a common pot at the rate they are made, and every handshake that is let in takes one out.
The fuller a range's credit, the deeper it may reach: with none, only for what nobody else wants, with all of it, into
the debt. This makes the sum right whatever the level is worth: while it is not known yet, while demand changes, and
where a range far below the level comes with several handshakes at once.

Below the level nobody is shed, a lone range gets everything, and what modest ranges leave goes to the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address
from secrets import token_bytes
from typing import Final

from proxy.base.observe import DoorDecision
from proxy.base.policy import RoutingPolicy

SLOTS: Final = 4096
"""Places for ranges; two ranges that share one also share its credit."""
WINDOW_S: Final = 0.25
"""How often the level is found anew."""
FIRST_WINDOW_S: Final = 0.05
"""At first more often: the second window is twice as long as the first one, the third thrice."""
MEMORY: Final = 0.4
"""Weight of the newest window among those that demand is measured by."""
BURST_S: Final = 1.0
"""A range may take what it has not used for so long at once."""
REST_S: Final = 3.0
"""After so long without a decision all is forgotten: the next shortage has other causes."""
LEVEL_SHARE: Final = 0.95
"""Share of the rate that the level gives away; the rest keeps the pot full for those with credit."""
POT_S: Final = 0.05
"""What the pot holds at most, in seconds of the rate."""
DEBT_S: Final = 0.1
"""How far it may be overdrawn, in seconds of the rate."""
DEBT_CHANCE: Final = 1.0
"""At small rates chance weighs more: the debt may then be so many standard deviations of a second's signatures."""
MIN_POT: Final = 4.0
"""In handshakes, for both, at small rates."""
FAINT_PER_S: Final = 0.02
"""A range that asks for less, and has all its credit, need not be remembered."""
TRICKLE_PER_S: Final = 1.0
"""The rate is never less: who lets nobody in never learns that signatures are made again."""


@dataclass(slots=True)
class _Range:
    """One place of the table."""

    demand_per_s: float = 0.0
    """Full handshakes it asks for."""
    asked: int = 0
    """In this window."""
    taken: float = 0.0
    """Let in, and not forgotten at the level yet."""
    at: float = 0.0
    """When `taken` was right."""


class Doors:
    """A door for each site: one site's shortage of signatures, or its flood of clients, is not another's."""

    def __init__(self, policy: RoutingPolicy) -> None:
        self._policy = policy
        self._doors: dict[str, Door] = {}

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in whatever happens, so that nothing need be asked (`routing.shed_at_door`)."""
        return not self._policy.shed_at_door

    def decide(self, site: str, client_ip: str, rate_per_s: float, now: float, *, offers_session: bool) -> DoorDecision:
        """Ask the door of a site of the config; see `Door.decide`."""
        door = self._doors.get(site)
        if door is None:
            self._doors[site] = door = Door(self._policy)
        return door.decide(client_ip, rate_per_s, now, offers_session=offers_session)


class Door:
    """Decides about new handshakes for one site in one worker while it is short of signatures."""

    __slots__ = (
        "_at",
        "_hash",
        "_is_open",
        "_level",
        "_pot",
        "_prefix_v4",
        "_prefix_v6",
        "_ranges",
        "_window",
        "_windows",
    )

    def __init__(self, policy: RoutingPolicy, *, salt: bytes = b"") -> None:
        self._is_open = not policy.shed_at_door
        self._prefix_v4 = policy.door_prefix_v4
        self._prefix_v6 = policy.door_prefix_v6
        self._hash = blake2b(key=salt or token_bytes(16), digest_size=8)
        self._ranges: dict[int, _Range] = {}
        self._level = 0.0
        self._pot = 0.0
        self._at = self._window = float("-inf")
        self._windows = 0

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in whatever happens, so that nothing need be asked (`routing.shed_at_door`)."""
        return self._is_open

    @property
    def ranges(self) -> int:
        """Places of the table that are taken; never more than SLOTS."""
        return len(self._ranges)

    @property
    def level_per_s(self) -> float:
        """Full handshakes per second that every range may have at present."""
        return self._level

    def decide(self, client_ip: str, rate_per_s: float, now: float, *, offers_session: bool) -> DoorDecision:
        """Decide while signatures are short; `rate_per_s` is what can be made of them, `now` is in seconds.

        A session costs no signature. Where it turns out not to resume, ask again without it before the job.
        """
        if offers_session:
            return DoorDecision.RESUMABLE
        rate = max(TRICKLE_PER_S, rate_per_s)
        self._pass_time(rate, now)
        one = self._range_of(client_ip, now)
        one.asked += 1
        full = max(1.0, self._level * BURST_S)
        taken = max(0.0, min(one.taken, full) - self._level * (now - one.at))
        depth = (1.0 - taken / full) ** 2
        one.at = now
        debt = max(MIN_POT, rate * DEBT_S, rate**0.5 * DEBT_CHANCE)
        spare = max(MIN_POT, rate * POT_S) / 2
        if self._pot < 1.0 + (1.0 - depth) * spare - depth * debt:
            one.taken = taken
            return DoorDecision.SHED
        one.taken = min(full, taken + 1.0)
        self._pot -= 1.0
        return DoorDecision.ADMITTED

    # time

    def _pass_time(self, rate: float, now: float) -> None:
        """Fill the pot, and find the level when a window is over."""
        if not now - self._at < REST_S:
            self._begin(rate, now)
        most = 1.0 + max(MIN_POT, rate * POT_S)
        self._pot = min(most, self._pot + rate * max(0.0, now - self._at))
        self._at = now
        if now - self._window >= min(WINDOW_S, FIRST_WINDOW_S * (1 + self._windows)):
            self._end_window(rate, now)

    def _begin(self, rate: float, now: float) -> None:
        self._ranges.clear()
        self._level, self._windows = 0.0, 0
        self._pot = 1.0 + max(MIN_POT, rate * POT_S) / 2
        self._at = self._window = now

    def _end_window(self, rate: float, now: float) -> None:
        """Measure every range's demand, forget those without any, and find the level.

        What the pot is overdrawn by is paid back within half a second.
        """
        self._windows += 1
        weight = max(MEMORY, 1.0 / self._windows)
        passed = now - self._window
        self._window = now
        kept = 1.0 - weight if passed < 2 * WINDOW_S else (1.0 - weight) ** (passed / WINDOW_S)
        full = max(1.0, self._level * BURST_S)
        for place, one in list(self._ranges.items()):
            one.demand_per_s = kept * one.demand_per_s + (1.0 - kept) * one.asked / passed
            one.asked = 0
            one.taken = max(0.0, min(one.taken, full) - self._level * (now - one.at))
            one.at = now
            if one.taken <= 0.0 and one.demand_per_s < FAINT_PER_S:
                del self._ranges[place]
        budget = max(0.0, rate + min(0.0, self._pot) / 0.5)
        self._level = water_level([one.demand_per_s for one in self._ranges.values()], budget * LEVEL_SHARE)

    # ranges

    def _range_of(self, client_ip: str, now: float) -> _Range:
        keyed = self._hash.copy()
        keyed.update(range_of(client_ip, self._prefix_v4, self._prefix_v6))
        place = int.from_bytes(keyed.digest(), "big") % SLOTS
        one = self._ranges.get(place)
        if one is None:
            one = self._ranges[place] = _Range(at=now)
        return one


def water_level(demands: Iterable[float], total: float) -> float:
    """The level at which the lesser of demand and level, over all demands, sums up to `total` (max-min fairness).

    Where `total` is enough for everybody: as far as the largest demand could grow.
    """
    ordered = sorted(demands)
    left, count = total, len(ordered)
    for demand in ordered:
        if demand * count > left:
            return left / count
        left -= demand
        count -= 1
    return left + (ordered[-1] if ordered else 0.0)


def range_of(client_ip: str, prefix_v4: int, prefix_v6: int) -> bytes:
    """The leading bits of an address; those of an IPv4 address inside an IPv6 one (RFC 4291 2.5.5.2) are IPv4's.

    What is no address is a range of its own.
    """
    try:
        if ":" not in client_ip:
            a, b, c, d = client_ip.split(".")
            number = int(a) << 24 | int(b) << 16 | int(c) << 8 | int(d)
        else:
            address = IPv6Address(client_ip)
            mapped = address.ipv4_mapped
            if mapped is None:
                return b"6" + (int(address) >> 128 - prefix_v6).to_bytes(16, "big")
            number = int(mapped)
        return b"4" + (number >> 32 - prefix_v4).to_bytes(4, "big")
    except (ValueError, OverflowError):
        return client_ip.encode(errors="replace")
