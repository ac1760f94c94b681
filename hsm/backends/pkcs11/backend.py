"""Signs with the keys of a PKCS#11 token, through its worker. Knows keys and what the book says of them.

A token that is away is the supervisor's business: its keys stay listed, and requests are answered busy at once, so that
proxies ask another node.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from hsm.backends.attributes import KeyAttributes
from hsm.backends.base import BackendError, OnSigned
from hsm.backends.book import Book, BookEntry, BookError
from hsm.backends.pkcs11.commands import TokenState
from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.messages import Answer, Failed, FoundKey, KeysFound, ListKeys, Opened, Request, Sign, Signed
from hsm.backends.pkcs11.problems import WorkerProblem, failure_of
from hsm.backends.pkcs11.process import StartProcess, start_worker
from hsm.backends.pkcs11.results import Failure
from hsm.backends.pkcs11.settings import TokenSettings
from hsm.backends.pkcs11.supervisor import TokenSupervisor
from hsm.shared.logs import get_logger
from hsm.wire.errors import ErrorCode
from hsm.wire.messages import KeyEntry
from hsm.wire.schemes import Scheme

_CODES = {
    Failure.BUSY: ErrorCode.BUSY,
    Failure.KEY_GONE: ErrorCode.KEY_NOT_FOUND,
    Failure.UNFIT: ErrorCode.CRYPTOGRAPHY,
    Failure.INVALID: ErrorCode.CRYPTOGRAPHY,
}
_DEFAULTS = KeyAttributes()
MAX_LEFT_OUT = 100
"""Sentences on keys in the status."""


class Pkcs11Backend:
    """An `AwaitedBackend`; see `hsm.backends.base.AwaitedBackend` for what its methods promise."""

    def __init__(
        self,
        settings: TokenSettings,
        book: Book,
        login: LoginSource,
        loop: asyncio.AbstractEventLoop,
        in_thread: Callable[[Callable[[], None]], None],
        *,
        start_worker: StartProcess = start_worker,
    ) -> None:
        """Reads the book; opens nothing. Blocks. Raises BookError."""
        self._settings = settings
        self._book = book
        self._loop = loop
        self._log = get_logger("token").bind(token=settings.name)
        self.supervisor = TokenSupervisor(settings, login, loop, in_thread, self._opened, start_worker=start_worker)
        self._found: Mapping[bytes, FoundKey] = {}
        self._entries: tuple[KeyEntry, ...] = ()
        self._in_book: Mapping[bytes, BookEntry] = book.entries()
        self._about: Mapping[str, str] = {}
        self._left_out: tuple[str, ...] = ()
        self._guard = threading.Lock()
        self._revision = 1
        self._told_revision = 1
        self._listings = 0
        self._listed = 0
        self._is_listing_wanted = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_failure = ""
        self._last_listing_problem = ""

    # its life, in the event loop

    async def start(self) -> None:
        """Open the token, or find out why that fails; then `supervisor` goes on trying."""
        await self.supervisor.start()
        self._schedule_look()

    async def stop(self) -> None:
        """End the worker and every request, and forget the keys. May be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self.supervisor.stop()
        self.close()

    def close(self) -> None:
        """Forget the keys; `stop` ends the worker."""
        with self._guard:
            self._found, self._entries = {}, ()

    # signing, in the event loop

    def begin(self, ski: bytes, scheme: Scheme, payload: bytes, on_signed: OnSigned) -> None:
        """Have the token sign."""
        self.supervisor.ask(
            lambda number: Sign(id=number, key=ski, scheme=scheme.value, payload=payload),
            partial(self._signed, on_signed),
            self._settings.call_timeout_s,
        )

    def _signed(self, on_signed: OnSigned, answer: Answer | BackendError) -> None:
        if isinstance(answer, Signed):
            on_signed(answer.signature)
        elif isinstance(answer, BackendError):
            on_signed(answer)
        elif isinstance(answer, Failed):
            kind = failure_of(answer)
            if kind in (Failure.KEY_GONE, Failure.INVALID):  # it may not know a key any more
                self._is_listing_wanted = True
            on_signed(BackendError(_CODES.get(kind, ErrorCode.INTERNAL), answer.detail))
        else:
            on_signed(BackendError(ErrorCode.INTERNAL, "the token's process does not speak as it should"))

    # keys

    @property
    def revision(self) -> int:
        """Counts the changes of keys and attributes that were seen."""
        return self._revision

    def keys(self) -> tuple[KeyEntry, ...]:
        """The keys that the token held when it was last looked at."""
        return self._entries

    def attributes_of(self, ski: bytes) -> KeyAttributes:
        """What the book says of a key."""
        entry = self._in_book.get(ski)
        return entry.attributes if entry is not None else _DEFAULTS

    def keys_changed(self) -> None:
        """Somebody made or destroyed a key: the next `refresh` looks at the token. Any thread."""
        self._is_listing_wanted = True

    def refresh(self) -> bool:
        """Take up what the book says now and, after `keys_changed`, what the token holds. Blocks, so not in the loop.

        Raises BackendError where one can't be read. A token that is away is no failure of the node: see `state`.
        """
        problem = self._read_book()
        if self._is_listing_wanted:
            self._is_listing_wanted = False
            problem = self._list_now() or problem
        with self._guard:
            has_changed = self._revision != self._told_revision
            self._told_revision = self._revision
        if problem is not None and not has_changed:
            raise problem
        return has_changed

    def _list_now(self) -> BackendError | None:
        if self.supervisor.state is not TokenState.UP:
            return None  # an opening lists the keys, too
        try:
            self.ask(ListKeys(id=0))
        except WorkerProblem as failed:
            self._is_listing_wanted = True
            return BackendError(ErrorCode.BUSY, failed.sentence)
        return None

    def ask(self, request: Request) -> Answer:
        """What the running worker answers. Blocks, so not in the loop. Raises WorkerProblem, at once if none runs."""
        number_of_listing = self._next_listing() if isinstance(request, ListKeys) else 0
        outcome: list[Answer | BackendError] = []
        is_done = threading.Event()

        def done(answer: Answer | BackendError) -> None:
            if number_of_listing and isinstance(answer, KeysFound):
                self._take_up(number_of_listing, answer)
            outcome.append(answer)
            is_done.set()

        limit_s = self._settings.open_timeout_s if number_of_listing else self._settings.call_timeout_s
        try:
            self._loop.call_soon_threadsafe(self.supervisor.ask, partial(_numbered, request), done, limit_s)
        except RuntimeError:
            raise WorkerProblem(Failure.TOKEN_GONE, "the node stops") from None
        if not is_done.wait(limit_s + self._settings.call_timeout_s):
            raise WorkerProblem(Failure.BUSY, "the node is too busy to ask the token")
        (answer,) = outcome
        if isinstance(answer, BackendError):
            raise WorkerProblem(Failure.BUSY, self._why_away() or answer.detail)
        if isinstance(answer, Failed):
            raise WorkerProblem(failure_of(answer), answer.detail)
        return answer

    # status

    @property
    def state(self) -> str:
        """One word: "up", or what the token is doing instead."""
        return self.supervisor.state.value

    def details(self) -> Mapping[str, object]:
        """What operators want to know, as JSON values."""
        supervisor, counts = self.supervisor, self.supervisor.counts
        _kind, problem = supervisor.problem
        why = self._why_away()
        return {
            **({"warning": why} if why else {}),
            **self._about,
            "worker_pid": supervisor.worker_pid,
            "in_flight": supervisor.in_flight,
            "workers_started": counts.workers,
            "openings": counts.openings,
            "crashes": counts.crashes,
            "hangs": counts.hangs,
            "problem": problem,
            "left_out": list(self._left_out[:MAX_LEFT_OUT]),
        }

    # listings

    def _opened(self, opened: Opened) -> None:
        if self._found.keys() - {key.ski for key in opened.keys}:
            self._is_listing_wanted = True  # a token that is just coming back may not show everything yet
        self._about = {"label": opened.token, "serial": opened.serial, "library": opened.library}
        self._take_up(self._next_listing(), KeysFound(id=0, keys=opened.keys, left_out=opened.left_out))

    def _next_listing(self) -> int:
        with self._guard:
            self._listings += 1
            return self._listings

    def _take_up(self, number: int, listing: KeysFound) -> None:
        """The keys are these now, unless a later listing was here first."""
        found = {key.ski: key for key in listing.keys}
        with self._guard:
            if number < self._listed:
                return
            self._listed = number
            self._last_listing_problem = ""
            entries = tuple(sorted(map(_entry, listing.keys), key=lambda entry: (entry.label, entry.ski)))
            has_changed = entries != self._entries
            self._found, self._entries = found, entries
            self._revision += has_changed
        self._tell(listing)

    def _tell(self, listing: KeysFound) -> None:
        """Say once what is odd about the keys."""
        extractable = [f"the token may give out the key {key.label!r}" for key in listing.keys if key.is_extractable]
        odd = (*listing.left_out, *extractable)
        for sentence in odd:
            if sentence not in self._left_out:
                self._log.warning("token_key_odd", reason=sentence)
        self._left_out = odd

    def _schedule_look(self) -> None:
        self._timer = self._loop.call_later(self._settings.rescan_interval_s, self._look)

    def _look(self) -> None:
        """Now and then: which keys are there?"""
        number = self._next_listing()

        def listed(answer: Answer | BackendError) -> None:
            if isinstance(answer, KeysFound):
                self._take_up(number, answer)
            elif isinstance(answer, Failed) and answer.detail != self._last_listing_problem:
                self._last_listing_problem = answer.detail
                self._log.warning("token_not_listed", reason=answer.detail)
            if self._timer is not None:
                self._schedule_look()

        if self.supervisor.state is TokenState.UP:
            self.supervisor.ask(lambda number: ListKeys(id=number), listed, self._settings.open_timeout_s)
        else:
            self._schedule_look()  # an opening lists the keys, too

    def _read_book(self) -> BackendError | None:
        try:
            if not self._book.has_changed():
                return None
            in_book = self._book.entries()
        except BookError as error:
            if error.sentence != self._last_failure:
                self._log.error("token_book_unreadable", error=error.sentence)
            self._last_failure = error.sentence
            return BackendError(ErrorCode.READ, error.sentence)
        self._last_failure = ""
        with self._guard:
            before, self._in_book = self._in_book, in_book
            self._revision += any(
                _attributes(before, entry.ski) != _attributes(in_book, entry.ski) for entry in self._entries
            )
        return None

    def _why_away(self) -> str:
        """Why the token is not up; "" where it is."""
        if self.supervisor.state is TokenState.UP:
            return ""
        _kind, problem = self.supervisor.problem
        state = self.state.replace("_", " ")
        return f"the token is not up ({state}): {problem}" if problem else f"the token is not up ({state})"


def _numbered(request: Request, number: int) -> Request:

    return msgspec.structs.replace(request, id=number)


def _entry(key: FoundKey) -> KeyEntry:
    return KeyEntry(key.ski, key.type, key.label)


def _attributes(book: Mapping[bytes, BookEntry], ski: bytes) -> KeyAttributes:
    entry = book.get(ski)
    return entry.attributes if entry is not None else _DEFAULTS
