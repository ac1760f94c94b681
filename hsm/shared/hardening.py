"""Keeps a process's memory to itself: no core files, no ptrace by its own user, no new privileges.

Linux only where it uses prctl(2); elsewhere only core files are turned off.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable

from hsm.shared.logs import get_logger

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def harden_process() -> None:
    """Make the process not dumpable (so /proc/PID/mem and ptrace need privileges), and forbid core files and setuid.

    Call it before secrets are read, and again in a program that was executed: `execve` makes it dumpable again.
    Each step that the system refuses is logged and the others are still taken.
    """
    _take(
        {
            "no_core_files": _forbid_core_files,
            "not_dumpable": lambda: _prctl(_PR_SET_DUMPABLE, 0),
            "no_new_privileges": lambda: _prctl(_PR_SET_NO_NEW_PRIVS, 1),
        }
    )


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
