"""Keeps a process's memory to itself: no core files, no ptrace by its own user, no new privileges, no swap.

Linux only where it uses prctl(2) and mlockall(2); elsewhere only core files are turned off.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from hsm.shared.logs import get_logger

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_MCL_CURRENT = 1
_MCL_FUTURE = 2
_MCL_ONFAULT = 4
_CAP_IPC_LOCK = 14
_ALL_IDS = 2**32 - 1
_LOCK_HINT = "let it lock memory: LimitMEMLOCK=infinity in its systemd unit, `ulimits: memlock: -1` in compose"


def harden_process(*, locks_memory: bool = False) -> None:
    """Make the process not dumpable (so /proc/PID/mem and ptrace need privileges), and forbid core files and setuid.

    With `locks_memory`, for processes that hold keys, none of its memory goes to a swap device, either. Call it before
    secrets are read, and again in a program that was executed: `execve` makes it dumpable again, and unlocks. Each
    step that the system refuses is logged and the others are still taken.
    """
    _take(
        {
            "no_core_files": _forbid_core_files,
            "not_dumpable": lambda: _prctl(_PR_SET_DUMPABLE, 0),
            "no_new_privileges": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        }
    )
    if locks_memory and (reason := lock_memory()) is not None:
        get_logger("hardening").warning("memory_not_locked", error=reason, hint=_LOCK_HINT)


def lock_memory() -> str | None:
    """Keep every page in memory that this process has and will have; pages take no room before they are used.

    Returns why that can't be, or None. Children that are forked, and programs that are executed, are not locked.
    """
    try:
        if (limit := _lock_limit()) is not None:
            # The kernel would let later allocations fail, thread stacks too, once their *size* reaches the limit.
            return f"the limit of locked memory is {limit} bytes"
        _mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _lock_limit() -> int | None:
    """How much memory the process may lock; None for no limit, which is then also the one in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard == resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        return None
    return None if _has_lock_capability() else soft


def _has_lock_capability(proc: Path = Path("/proc/self")) -> bool:
    """Whether CAP_IPC_LOCK is effective (capabilities(7)); within a user namespace the kernel does not count it."""
    try:
        lines = (proc / "status").read_text().splitlines()
        mapping = [int(number) for number in (proc / "uid_map").read_text().split()]
    except (OSError, ValueError):
        return False
    effective = next((line.split()[1] for line in lines if line.startswith("CapEff:")), "0")
    return mapping == [0, 0, _ALL_IDS] and bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def forbid_core_files() -> None:
    """For short commands that hold a secret for a moment: if they crash, it stays in no file."""
    _take({"no_core_files": _forbid_core_files})


def _forbid_core_files() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _take(steps: dict[str, Callable[[], None]]) -> None:
    for name, step in steps.items():
        try:
            step()
        except (OSError, ValueError) as error:
            get_logger("hardening").warning("hardening_step_refused", step=name, error=str(error))


def _prctl(option: int, value: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError("prctl is a Linux call")
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if libc.prctl(ctypes.c_int(option), *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mlockall(flags: int) -> None:
    if not sys.platform.startswith("linux"):
        raise OSError("this system's way to lock memory is not known")
    if ctypes.CDLL(None, use_errno=True).mlockall(ctypes.c_int(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
