"""Keeps the attributes and the use of keys whose token can't keep them itself: one JSON file beside the token.

The file is replaced whole, so that a reader, a crash or a full disk never leaves half of it, and changed under a lock
that all processes of the host respect. It holds nothing secret, but decides which keys sign: only its owner may write
it. Knows no token: it holds what it was told of any SKI, and the defaults of all others.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hsm.backends.attributes import KeyAttributes, Usage, time_problem
from hsm.store.errors import StoreError
from hsm.store.files import check_private_folder, sync_folder

FORMAT = 1
MAX_BYTES = 64 * 1024 * 1024
LOCK_TIMEOUT_S = 5.0
LOCK_POLL_S = 0.01
_SKI = re.compile(r"^[0-9a-f]{40}\Z", re.ASCII)
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_Stamp = tuple[int, int, int, int]


class BookReason(StrEnum):
    """What kind of trouble it is."""

    UNREADABLE = "unreadable"
    UNSAFE = "unsafe"
    """Others may write it, or it is no regular file."""
    MALFORMED = "malformed"
    GONE = "gone"
    """It was there, and is not any more."""
    BUSY = "busy"
    """Another process held the lock for too long."""
    UNWRITABLE = "unwritable"


class BookError(Exception):
    """The book can't be used; nothing was changed. `str()` is a sentence that names the file."""

    def __init__(self, reason: BookReason, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason = reason
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


class BookEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the book says of one key."""

    attributes: KeyAttributes = KeyAttributes()
    created: Annotated[datetime, Meta(tz=True)] | None = None
    """When Sealgate made or imported the key; None for keys that it found in the token."""
    imported: bool = False
    usage: Usage = Usage()


_NOTHING = BookEntry()
_DEFAULTS = KeyAttributes()


class _Page(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as a whole."""

    format: int
    keys: dict[str, BookEntry]


class Book:
    """The book in one file, which need not exist yet. Methods block, and may be called from any thread.

    Each raises BookError.
    """

    def __init__(self, path: Path, *, lock_timeout_s: float = LOCK_TIMEOUT_S) -> None:
        """Reads nothing yet."""
        self.path = path
        self._lock_timeout_s = lock_timeout_s
        self._guard = threading.RLock()
        self._stamp: _Stamp | None = None
        self._told: _Stamp | None = None
        self._entries: dict[bytes, BookEntry] = {}

    def attributes(self, ski: bytes) -> KeyAttributes:
        """What is kept with a key; the defaults of one that is not in the book."""
        return self.entry(ski).attributes

    def entry(self, ski: bytes) -> BookEntry:
        """All that the book says of a key."""
        with self._guard:
            self._read_if_new()
            return self._entries.get(ski, _NOTHING)

    def entries(self) -> Mapping[bytes, BookEntry]:
        """The whole book, by SKI, as it is now. `has_changed` tells when to ask again."""
        with self._guard:
            self._read_if_new()
            self._told = self._stamp
            return dict(self._entries)

    def has_changed(self) -> bool:
        """Whether anybody, this process included, wrote since `entries` was called last. Costs one stat."""
        with self._guard:
            now = self._look()
            return now != self._told or (now is None and self._stamp is not None)

    def add(
        self, ski: bytes, attributes: KeyAttributes, *, created: datetime | None = None, imported: bool = False
    ) -> None:
        """Begin a key's entry; whatever was said of the same SKI before is forgotten."""
        self._rewrite(lambda _: {ski: BookEntry(attributes=attributes, created=created, imported=imported)})

    def change(self, ski: bytes, make: Callable[[KeyAttributes], KeyAttributes]) -> KeyAttributes:
        """Replace a key's attributes by what `make` makes of them, alone of all processes; what it raises is passed on.

        `make` must be quick, because others wait.
        """

        def changed(entries: Mapping[bytes, BookEntry]) -> dict[bytes, BookEntry]:
            entry = entries.get(ski, _NOTHING)
            return {ski: msgspec.structs.replace(entry, attributes=make(entry.attributes))}

        return self._rewrite(changed)[ski].attributes

    def add_usage(self, node: str, used: Mapping[bytes, Usage]) -> None:
        """Add what a node has signed since it last said so. The sum of all nodes is kept; `node` is for other tokens'
        sake."""

        def counted(entries: Mapping[bytes, BookEntry]) -> dict[bytes, BookEntry]:
            found = {ski: entries.get(ski, _NOTHING) for ski in used}
            return {
                ski: msgspec.structs.replace(entry, usage=entry.usage.plus(used[ski])) for ski, entry in found.items()
            }

        if used:
            self._rewrite(counted)

    def usage(self) -> Mapping[bytes, Usage]:
        """By SKI, all nodes together. Keys never used are left out."""
        with self._guard:
            self._read_if_new()
            return {ski: entry.usage for ski, entry in self._entries.items() if entry.usage.signatures}

    def forget(self, ski: bytes) -> None:
        """Drop all that is said of a key that was destroyed."""
        self._rewrite(lambda _: {ski: None})

    def _rewrite(
        self, make: Callable[[Mapping[bytes, BookEntry]], Mapping[bytes, BookEntry | None]]
    ) -> Mapping[bytes, BookEntry]:
        """Puts in place what `make` gives for some keys; None drops one. Returns the whole."""
        with self._guard, self._locked():
            self._read_if_new()
            changed = {**self._entries, **make(self._entries)}
            self._write({ski: entry for ski, entry in changed.items() if entry is not None})
            self._read_if_new()
            return self._entries

    def _look(self) -> _Stamp | None:
        """What tells one state of the file from another; None where there is none."""
        try:
            info = self.path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._error(BookReason.UNREADABLE, f"can't be read: {error.strerror}") from None
        return info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size

    def _read_if_new(self) -> None:
        if self._look() == self._stamp:
            return
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            # Keys that were retired would be active again.
            what = "was removed while it was in use; put it back, or restart to begin a new one"
            raise self._error(BookReason.GONE, what) from None
        except OSError as error:
            raise self._error(BookReason.UNREADABLE, f"can't be read: {error.strerror}") from None
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(descriptor)
            self._check_folder()
            self._check(info)
            try:
                data = file.read(MAX_BYTES + 1)
            except OSError as error:
                raise self._error(BookReason.UNREADABLE, f"can't be read: {error.strerror}") from None
        self._entries = self._decoded(data)
        self._stamp = (info.st_dev, info.st_ino, info.st_mtime_ns, info.st_size)

    def _check_folder(self) -> None:
        """Who may write the folder may put another book in its place."""
        try:
            check_private_folder(self.path.parent)
        except StoreError as error:
            raise self._error(BookReason.UNSAFE, f"can't be trusted: {error.sentence}") from None

    def _check(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode):
            raise self._error(BookReason.UNSAFE, "is not a regular file")
        if info.st_mode & _OTHERS:
            mode = stat.S_IMODE(info.st_mode)
            what = f"is accessible by group or others (mode {mode:04o}); run: chmod 600 {self.path}"
            raise self._error(BookReason.UNSAFE, what)
        if info.st_uid not in (0, os.geteuid()):
            raise self._error(BookReason.UNSAFE, "belongs to another user; use the node's own")

    def _decoded(self, data: bytes) -> dict[bytes, BookEntry]:
        if len(data) > MAX_BYTES:
            raise self._error(BookReason.MALFORMED, f"is larger than {MAX_BYTES} bytes; is it the right file?")
        try:
            page = msgspec.json.decode(data, type=_Page)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(BookReason.MALFORMED, f"is not a book of key attributes: {error}") from None
        if page.format != FORMAT:
            what = f"has format {page.format}, and this program knows format {FORMAT}; use a matching version"
            raise self._error(BookReason.MALFORMED, what)
        for name in page.keys:
            if not _SKI.match(name):
                raise self._error(BookReason.MALFORMED, f"names a key {name!r}; keys are named by 40 hex digits")
        for name, entry in page.keys.items():
            # Times without a zone can't be compared with the clock, so that asking for the key would fail.
            if problem := time_problem(entry.attributes):
                raise self._error(BookReason.MALFORMED, f"is wrong about key {name}: {problem}")
        return {bytes.fromhex(name): entry for name, entry in page.keys.items()}

    def _write(self, entries: Mapping[bytes, BookEntry]) -> None:
        page = _Page(format=FORMAT, keys={ski.hex(): entries[ski] for ski in sorted(entries)})
        data = msgspec.json.format(msgspec.json.encode(page), indent=1) + b"\n"
        draft = self.path.with_name(f".{self.path.name}.{os.urandom(8).hex()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            draft.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise self._error(BookReason.UNWRITABLE, f"can't be written: {error.strerror}") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone of all processes of this host. The lock is a file of its own, because the book itself is replaced."""
        self._check_folder()
        place = self.path.with_name(f"{self.path.name}.lock")
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(BookReason.UNWRITABLE, f"can't be locked by {place.name}: {error.strerror}") from None
        try:
            deadline = time.monotonic() + self._lock_timeout_s
            while not _try_lock(descriptor):
                if time.monotonic() >= deadline:
                    what = f"is held by another process for more than {self._lock_timeout_s:g} s; try again"
                    raise self._error(BookReason.BUSY, what)
                time.sleep(LOCK_POLL_S)
            yield
        finally:
            os.close(descriptor)  # and with it the lock

    def _error(self, reason: BookReason, what: str) -> BookError:
        return BookError(reason, f"{self.path} {what}")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
