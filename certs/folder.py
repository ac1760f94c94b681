"""The files of a development PKI: private modes, whole or not at all, and one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from certs.authority import PkiError


def make_private(folder: Path) -> None:
    """Make a folder of mode 0700, with parents; refuse one that others may write to. Raises PkiError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        mode = folder.stat().st_mode
    except OSError as error:
        raise PkiError(f"the folder {folder} can't be made: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise PkiError(f"{folder} is not a folder; choose another")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PkiError(f"the folder {folder} can be written by others; choose another, or run: chmod 700 {folder}")


def write(path: Path, data: bytes, *, is_private: bool) -> None:
    """Write a file (0600 or 0644), replacing an old one in one step. Raises PkiError."""
    draft = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "wb") as file:
            if not is_private:
                os.fchmod(file.fileno(), 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise PkiError(f"{path} can't be written: {error.strerror}") from None


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within it no other process makes a PKI in the folder. Raises PkiError when one is at it."""
    number = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise PkiError(f"another program is making certificates in {folder}; wait until it is done") from None
    finally:
        os.close(number)
