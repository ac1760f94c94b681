"""Starts and ends the process that runs an HSM maker's library. Knows its socket, not what is said over it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import hsm
from hsm.backends.pkcs11.settings import TokenSettings

WORKER = "hsm.backends.pkcs11.worker"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
"""All that a library gets of the node's environment; a config adds what its maker wants."""


def worker_command(fd: int) -> list[str]:
    """What is executed: this Python, and only what was installed with this program."""
    return [sys.executable, "-P", "-m", WORKER, str(fd)]


class WorkerProcess:
    """One token worker. `connection` is the node's end of its socket; who starts it closes that."""

    def __init__(self, environment: Mapping[str, str], *, command: Callable[[int], list[str]] = worker_command) -> None:
        """Start it. Raises OSError."""
        self.connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    command(theirs.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=_standard_error(),
                    env=_environment(environment),
                    pass_fds=(theirs.fileno(),),
                    close_fds=True,
                    start_new_session=True,  # Ctrl-C at a terminal is the node's to handle
                )
        except BaseException as error:
            self.connection.close()
            if isinstance(error, ValueError):  # a variable that no environment can hold
                raise OSError(errno.EINVAL, str(error)) from None
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; it can't be ignored. May be called again."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        return self.end_within(timeout_s) is not None

    def end_within(self, timeout_s: float) -> str | None:
        """How it ended, as a sentence ("" for SIGKILL); None where it did not within `timeout_s`."""
        try:
            return how_it_ended(self._process.wait(timeout_s))
        except subprocess.TimeoutExpired:
            return None

    def watch(self, on_end: Callable[[str], None]) -> None:
        """Call `on_end` in a thread when it has ended and been reaped, with a sentence that says how."""

        def wait() -> None:
            on_end(how_it_ended(self._process.wait()))

        threading.Thread(target=wait, name=f"token-worker-{self.pid}", daemon=True).start()


StartProcess: TypeAlias = Callable[[TokenSettings], WorkerProcess]


def start_worker(settings: TokenSettings) -> WorkerProcess:
    """A worker for the token of `settings`. Raises OSError."""
    return WorkerProcess(settings.environment)


def how_it_ended(status: int) -> str:
    """A sentence on a process's return code, as `subprocess` gives it; "" for SIGKILL, which is how we end them."""
    if status == -signal.SIGKILL:
        return ""
    if status >= 0:
        return f"the token's process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"the token's process was ended by {name}"


def _standard_error() -> int:
    """What the library prints goes where the node's own lines go, if they go anywhere."""
    try:
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL
    except (OSError, ValueError):
        return subprocess.DEVNULL


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    folder = str(Path(hsm.__file__).parents[1])
    return {**inherited, "PYTHONPATH": folder, **own}
