from __future__ import annotations

import io
import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest

from hsm.cli.terminal import read_hidden


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """The keyboard's end, and a terminal's end to read from."""
    keyboard, screen = pty.openpty()
    with os.fdopen(screen, "r", encoding="utf-8") as stream:
        yield keyboard, stream
    os.close(keyboard)


def echoes(stream: io.TextIOWrapper) -> bool:
    return bool(termios.tcgetattr(stream.fileno())[3] & termios.ECHO)


def test_lines_that_were_pasted_at_once_are_all_read_and_none_is_echoed(
    terminal: tuple[int, io.TextIOWrapper],
) -> None:
    keyboard, stream = terminal
    seen: list[bool] = []

    def is_complete(text: str) -> bool:
        seen.append(echoes(stream))
        return text.count("\n") == 3

    typist = threading.Thread(target=os.write, args=(keyboard, b"one\ntwo\nthree\nfour\n"))
    typist.start()
    try:
        assert read_hidden("? ", is_complete, stream) == "one\ntwo\nthree\n"
    finally:
        typist.join()
    assert seen == [False] * 3
    assert echoes(stream)


def test_an_empty_line_ends_it(terminal: tuple[int, io.TextIOWrapper]) -> None:
    keyboard, stream = terminal
    os.write(keyboard, b"one\n\nmore\n")
    assert read_hidden("? ", lambda _text: False, stream) == "one\n"


def test_the_echo_comes_back_whatever_happens(terminal: tuple[int, io.TextIOWrapper]) -> None:
    keyboard, stream = terminal
    os.write(keyboard, b"one\n")

    def interrupt(_text: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_hidden("? ", interrupt, stream)
    assert echoes(stream)


def test_what_is_no_terminal_is_read_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_hidden("Share: ", lambda _text: False, io.StringIO("a\nb\n")) == "a\nb\n"
    assert read_hidden("Share: ", lambda _text: False, io.StringIO("")) == ""
    assert read_hidden("Share: ", lambda _text: False, io.StringIO("x\n" * 100)).count("\n") == 40
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "a\n" not in shown.err
