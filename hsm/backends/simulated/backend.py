"""An `AwaitedBackend` around a vault: the device says when and how a request ends, the vault makes real signatures.

Cheap keys sign in the event loop when their time has come, dear ones in a few threads of its own, so that a TLS
handshake works. It knows the loop, and neither requests nor sockets. A request that the device does not answer in
`time_limit_s` is ended here; the device goes on being busy with it, as an HSM would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import Backend, BackendError, OnSigned
from hsm.backends.simulated.device import Done, SimulatedDevice, Verdict
from hsm.backends.simulated.faults import ActiveFault, Fault
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import Scheme

THREADS = 2
DEFAULT_TIME_LIMIT_S = 5.0
_TICK_S = 0.001
"""uvloop's timers count in milliseconds; a shorter wait would spin."""

_ERRORS = {
    Verdict.FAILED: (ErrorCode.INTERNAL, "the token answered with an error"),
    Verdict.BUSY: (ErrorCode.BUSY, "the token is busy"),
    Verdict.NO_KEY: (ErrorCode.KEY_NOT_FOUND, "the token does not find the key"),
    Verdict.CRASHED: (ErrorCode.INTERNAL, "the token crashed"),
    Verdict.DOWN: (ErrorCode.BUSY, "the token restarts"),
}


class Asked:
    """One request on its way through the device."""

    __slots__ = ("deadline", "entry", "on_signed", "payload", "scheme")

    def __init__(self, entry: KeyEntry, scheme: Scheme, payload: bytes, on_signed: OnSigned, deadline: float) -> None:
        self.entry = entry
        self.scheme = scheme
        self.payload = payload
        self.on_signed = on_signed
        self.deadline = deadline


class SimulatedBackend:
    """See `hsm.backends.base.AwaitedBackend`. Faults are switched in the event loop."""

    def __init__(
        self,
        vault: Backend,
        device: SimulatedDevice[Asked],
        loop: asyncio.AbstractEventLoop,
        *,
        time_limit_s: float = DEFAULT_TIME_LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`device` was made at a time of `clock`."""
        self._vault = vault
        self._device = device
        self._loop = loop
        self._time_limit_s = time_limit_s
        self._clock = clock
        self._log = get_logger("simulated")
        self._open: dict[Asked, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._is_pump_due = False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="simulated")
        self._is_closed = False
        self._bumps = 0
        self._lost: frozenset[bytes] = frozenset()
        self._entries = _by_ski(vault)

    # keys

    @property
    def revision(self) -> int:
        """Grows with the vault's, and whenever a key is lost or found again."""
        return self._vault.revision + self._bumps

    def keys(self) -> tuple[KeyEntry, ...]:
        """The vault's keys without those that the device had lost when it was last asked."""
        lost, held = self._lost, self._vault.keys()
        return tuple(entry for entry in held if entry.ski not in lost)

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        """The vault's."""
        return self._vault.attributes_of(ski)

    def refresh(self) -> bool:
        """Looks for changes in the vault, and for keys that the device lost or found."""
        has_changed = self._vault.refresh()
        entries = _by_ski(self._vault)
        lost = frozenset(ski for ski, entry in entries.items() if self._device.has_lost(entry.label))
        self._entries = entries
        if lost != self._lost:
            self._lost = lost
            self._bumps += 1
            has_changed = True
        return has_changed

    def close(self) -> None:
        """Ends what is open, and forgets the keys."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._abandon)
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._vault.close()

    def _abandon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for asked in list(self._open):
            self._end(asked, BackendError(ErrorCode.INTERNAL, "the token was closed"))

    # requests

    def begin(self, ski: bytes, scheme: Scheme, payload: bytes, on_signed: OnSigned) -> None:
        """Hand a request to the device."""
        entry = self._entries.get(ski)
        if entry is None or self._is_closed:
            error = BackendError(ErrorCode.KEY_NOT_FOUND, f"this token has no key {ski.hex()}")
            self._loop.call_soon(on_signed, error)
            return
        now = self._clock()
        asked = Asked(entry, scheme, payload, on_signed, now + self._time_limit_s)
        self._open[asked] = None
        self._device.submit(now, asked, entry.type, entry.label)
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        """Has `_pump` called when something is due."""
        due = self._device.next_event()
        first = next(iter(self._open), None)
        at = min(math.inf if due is None else due, math.inf if first is None else first.deadline)
        if at <= now:
            if not self._is_pump_due:
                self._is_pump_due = True
                self._loop.call_soon(self._pump)
        elif at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_later(math.ceil((at - now) / _TICK_S) * _TICK_S, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self._pump()

    def _pump(self) -> None:
        self._is_pump_due = False
        if self._is_closed:
            return
        now = self._clock()
        for done in self._device.advance(now):
            self._finish(done)
        while (first := next(iter(self._open), None)) is not None and first.deadline <= now:
            self._end(first, BackendError(ErrorCode.INTERNAL, f"the token gave no answer in {self._time_limit_s:g} s"))
        self._schedule(now)

    def _finish(self, done: Done[Asked]) -> None:
        asked = done.item
        if asked not in self._open:
            return  # it took too long
        error = _ERRORS.get(done.verdict)
        if error is not None:
            self._end(asked, BackendError(*error, done.retry_after_s))
            return
        payload = asked.payload if done.verdict is Verdict.GOOD else spoilt(asked.payload)
        if self._vault.cost(asked.entry.ski) == "cheap":
            self._end(asked, self._sign(asked, payload))
        else:
            future = self._threads.submit(self._sign, asked, payload)
            future.add_done_callback(lambda made: self._signed_in_thread(asked, made))

    def _sign(self, asked: Asked, payload: bytes) -> bytes | BackendError:
        """In whatever thread; never raises."""
        try:
            return self._vault.sign(asked.entry.ski, asked.scheme, payload)
        except BackendError as error:
            return error
        except Exception as error:
            # Its message may hold anything: log the type only.
            self._log.error("simulated_sign_failed", key=asked.entry.label, error=type(error).__name__)
            return BackendError(ErrorCode.INTERNAL, "the signature could not be made")

    def _signed_in_thread(self, asked: Asked, made: Future[bytes | BackendError]) -> None:
        if made.cancelled():
            return
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            self._loop.call_soon_threadsafe(self._end, asked, made.result())

    def _end(self, asked: Asked, result: bytes | BackendError) -> None:
        if asked in self._open:
            del self._open[asked]
            asked.on_signed(result)

    # faults

    @property
    def faults(self) -> tuple[ActiveFault, ...]:
        """Those that are on, oldest first; their times are those of `now()`."""
        return self._device.faults

    def now(self) -> float:
        """The clock of `faults`."""
        return self._clock()

    def set_fault(self, fault: Fault) -> ActiveFault:
        """Switches a fault on. Raises ValueError where its parameters don't fit its kind."""
        now = self._clock()
        active = self._device.set_fault(now, fault)
        self._log.warning("simulated_fault_set", fault=fault.name, duration_s=fault.duration_s)
        self._look_again(now)
        return active

    def clear_faults(self, names: Iterable[str] | None = None) -> tuple[ActiveFault, ...]:
        """Switches faults off, by name or all; returns those that were on."""
        now = self._clock()
        cleared = self._device.clear_faults(now, names)
        for active in cleared:
            self._log.warning("simulated_fault_cleared", fault=active.fault.name)
        self._look_again(now)
        return cleared

    def state(self) -> str:
        """ "up", or "restarting" after a crash. Like an HSM's, a hang does not show here."""
        return "restarting" if self._device.is_down else "up"

    def details(self) -> Mapping[str, object]:
        """For the status page."""
        return {
            "faults": [active.fault.name for active in self._device.faults],
            "in_device": self._device.occupied,
            "waiting_in_device": self._device.waiting,
            "ended": {verdict.value: count for verdict, count in self._device.counts.items()},
        }

    def _look_again(self, now: float) -> None:
        """What was due then is due at another time now."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_at = math.inf
        self._schedule(now)


def _by_ski(vault: Backend) -> dict[bytes, KeyEntry]:
    held = vault.keys()
    return {entry.ski: entry for entry in held}


def spoilt(payload: bytes) -> bytes:
    """Another payload of the same length: its signature is well-formed, and wrong."""
    return bytes((payload[0] ^ 1,)) + payload[1:] if payload else b"?"
