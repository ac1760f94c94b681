"""Private files: checks that nobody else can read or change them, and creates them so."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hsm.store.errors import StoreError, StoreReason

_OTHERS_MAY_ACCESS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def check_private_file(path: Path) -> None:
    """Raise StoreError unless `path` is a regular file that only its owner may access."""
    mode = _stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise StoreError(StoreReason.UNSAFE_FILE, f"{path} is not a regular file")
    if mode & _OTHERS_MAY_ACCESS:
        sentence = f"{path} is accessible by group or others (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}"
        raise StoreError(StoreReason.UNSAFE_FILE, sentence)


def check_private_folder(path: Path) -> None:
    """Raise StoreError when others may put files beside the store or replace it."""
    info = _stat(path, missing=f"the folder {path} does not exist; make it: mkdir -m 700 {path}")
    if not stat.S_ISDIR(info.st_mode):
        raise StoreError(StoreReason.UNSAFE_FILE, f"{path} is not a folder")
    if info.st_mode & _OTHERS_MAY_WRITE:
        sentence = (
            f"the folder {path} can be written by group or others (mode {stat.S_IMODE(info.st_mode):04o}); "
            f"use a folder of its own, or run: chmod go-w {path}"
        )
        raise StoreError(StoreReason.UNSAFE_FILE, sentence)
    if info.st_uid not in (0, os.geteuid()):
        raise StoreError(StoreReason.UNSAFE_FILE, f"the folder {path} belongs to another user; use a folder of its own")


def read_private(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a private file, at most `limit_bytes`. Raises StoreError."""
    return bytes(read_secret(path, limit_bytes))


def read_secret(path: Path, limit_bytes: int) -> bytearray:
    """Like `read_private`, into memory that its caller can wipe; no other copy is made."""
    check_private_file(path)
    buffer = bytearray(limit_bytes + 1)
    size = 0
    try:
        with path.open("rb", buffering=0) as file, memoryview(buffer) as view:
            while size < len(view) and (count := file.readinto(view[size:])):
                size += count
    except OSError as error:
        raise StoreError(StoreReason.MISSING, f"{path} can't be read: {error.strerror}") from None
    if size > limit_bytes:
        raise StoreError(StoreReason.INVALID, f"{path} is larger than {limit_bytes} bytes; is it the right file?")
    try:
        return buffer[:size]
    finally:
        buffer[:] = bytes(len(buffer))


def create_private(path: Path, data: bytes | bytearray) -> None:
    """Write a new file of mode 0600, durably. Raises StoreError where a file is in its place."""
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise StoreError(StoreReason.EXISTS, f"{path} exists already; it is never overwritten") from None
    except OSError as error:
        raise StoreError(StoreReason.READ_ONLY, f"{path} can't be created: {error.strerror}") from None
    try:
        with os.fdopen(number, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StoreError(StoreReason.FULL, f"{path} can't be written: {error.strerror}") from None


def sync_folder(path: Path) -> None:
    """Make names created in a folder survive a power loss."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _stat(path: Path, missing: str = "") -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise StoreError(StoreReason.MISSING, missing or f"{path} does not exist") from None
    except OSError as error:
        raise StoreError(StoreReason.MISSING, f"{path} can't be accessed: {error.strerror}") from None
