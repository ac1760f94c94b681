from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hsm.shared.hardening import harden_process
from proxy.run.process import (
    HANDLED,
    cpu_seconds,
    forget_masters_signals,
    name_process,
    resident_bytes,
    signal_name,
)

# The children here do nothing that threads of the test process could disturb.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def in_child(check) -> int:
    """Exit status of a fork that runs `check`: 0 when it returns True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_has_none_of_the_masters_handlers() -> None:
    def check() -> bool:
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        forget_masters_signals()
        ignored = {number for number in HANDLED if signal.getsignal(number) is signal.SIG_IGN}
        default = {number for number in HANDLED if signal.getsignal(number) is signal.SIG_DFL}
        return ignored == {signal.SIGINT, signal.SIGHUP, signal.SIGUSR2} and default == {signal.SIGTERM, signal.SIGCHLD}

    assert in_child(check) == 0


def test_a_hardened_process_of_any_user_has_a_name() -> None:
    def check() -> bool:
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        harden_process()
        name_process("sealgate-a-name-that-is-too-long")
        return Path("/proc/self/comm").read_text() == "sealgate-a-name\n"

    assert in_child(check) == 0


def test_what_a_process_uses() -> None:
    assert cpu_seconds() > 0
    assert resident_bytes() > 1_000_000


def test_every_signal_has_something_to_be_called_by() -> None:
    assert signal_name(signal.SIGKILL) == "SIGKILL"
    assert signal_name(signal.SIGRTMIN + 3) == str(int(signal.SIGRTMIN) + 3)
