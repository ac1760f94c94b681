"""Small things that each process does to itself at its beginning. Called once, right after the fork."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
from pathlib import Path

GC_THRESHOLDS = (20_000, 20, 100)
"""Connections free themselves without the collector; it is only a net below, so it runs rarely."""
_PR_SET_NAME = 15
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


def forget_masters_signals() -> None:
    """Default behaviour again, except for what a terminal sends to all: the master decides about that.

    SIGTERM kills until the process has its own handler; it has no client before.
    """
    signal.set_wakeup_fd(-1)
    for each in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(each, signal.SIG_DFL)
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(each, signal.SIG_IGN)


def signal_name(number: int) -> str:
    """SIGKILL and so on; the number of a real-time signal, which has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def name_process(name: str) -> None:
    """Show `name` in ps and top, 15 characters of it.

    Not through /proc/self/comm: that belongs to root once a process is not dumpable.
    """
    with contextlib.suppress(OSError, AttributeError):  # a system without prctl(2)
        ctypes.CDLL(None).prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]), *[ctypes.c_ulong(0)] * 3)


def tune_collector() -> None:
    """Leave what exists alone (it is shared with the master, page by page), and look at new objects rarely."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def cpu_seconds() -> float:
    """User and system time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")
