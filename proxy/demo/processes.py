"""Real programs as children: started with a log file, watched until ready, stopped by their own pid."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class ProgramError(Exception):
    """A program did not start, or ended by itself; the text says which and shows the end of its log."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listened on just now, chosen by the kernel."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def sealgate(*arguments: str) -> list[str]:
    """The command line of this very installation's `sealgate`."""
    return [sys.executable, "-m", "proxy", *arguments]


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Program:
    """One child process. Its output goes to a file; it gets no terminal signals, its owner stops it."""

    def __init__(self, name: str, command: Sequence[str], log: Path, *, env: dict[str, str] | None = None) -> None:
        self.name, self._command, self.log, self._env = name, list(command), log, env
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; raises when it was never started."""
        if self._process is None:
            raise ProgramError(f"{self.name} was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the program; a second start after its end is allowed."""
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._env,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
            except FileNotFoundError as error:
                raise ProgramError(f"{self.name}: {self._command[0]} is not installed") from error

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Waits for a condition; an early end of the program or the deadline is a `ProgramError`."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running:
                raise ProgramError(f"{self.name} ended before it was ready:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"{self.name} was not ready after {timeout_s:g} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of its log, for error messages."""
        with contextlib.suppress(OSError):
            return "\n".join("    " + line for line in self.log.read_text("utf-8", "replace").splitlines()[-lines:])
        return "    (no log)"

    def signal(self, number: int) -> None:
        """Sends a signal, if the process still lives."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a crash would end it, and waits until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=10)

    def stop(self, timeout_s: float = 10.0) -> int | None:
        """SIGTERM, and SIGKILL after `timeout_s`; returns the exit status."""
        self.signal(signal.SIGTERM)
        if self._process is None:
            return None
        try:
            return self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode


def answers(url: str) -> Callable[[], bool]:
    """A question for `Program.wait_until`: does the URL answer with 200?"""

    def ask() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    return ask


def listens(host: str, port: int) -> Callable[[], bool]:
    """A question for `Program.wait_until`: does somebody accept connections there?"""

    def ask() -> bool:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            return False
        return True

    return ask
