"""Secrets typed at a terminal: several lines without an echo, and a screen that is cleared after it showed one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

CLEAR_SCREEN = "\x1b[2J\x1b[3J\x1b[H"
"""Also what can be scrolled back to (ECMA-48 ED, and xterm's 3J)."""
MAX_LINES = 40


def is_terminal() -> bool:
    """Whether somebody can type here."""
    return sys.stdin.isatty()


def read_hidden(question: str, is_complete: Callable[[str], bool], stream: TextIO | None = None) -> str:
    """Lines without an echo until `is_complete` holds of them, or an empty line ends them.

    Unlike `getpass` it keeps lines that were pasted in one go.
    """
    source = stream or sys.stdin
    lines: list[str] = []
    with _without_echo(source):
        # Not before: whoever sees the question may type.
        sys.stderr.write(question)
        sys.stderr.flush()
        for _ in range(MAX_LINES):
            line = source.readline()
            if not line.strip() and (lines or not line):
                break
            lines.append(line)
            if is_complete("".join(lines)):
                break
    sys.stderr.write("\n")
    return "".join(lines)


@contextlib.contextmanager
def _without_echo(stream: TextIO) -> Iterator[None]:
    import termios

    try:
        number = stream.fileno()
        before = termios.tcgetattr(number)
    except (OSError, ValueError, termios.error):
        yield  # no terminal: nothing is echoed
        return
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(number, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
