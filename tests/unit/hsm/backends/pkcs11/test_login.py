"""PINs on their way to a token."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.backends.pkcs11.login import LoginSource
from hsm.backends.pkcs11.pin import PinFile, PinProblem


def pin_file(folder: Path, pin: str) -> PinFile:
    path = folder / "pin"
    path.touch(mode=0o600)
    path.write_text(pin + "\n")
    return PinFile(path)


def test_a_token_without_a_pin_needs_none() -> None:
    login = LoginSource(None).read()
    assert login.pin is None
    assert login.mark == LoginSource(None).read().mark


def test_a_user_stands_before_the_pin(tmp_path: Path) -> None:
    login = LoginSource(pin_file(tmp_path, "hunter2"), "crypto-user").read()
    assert login.pin is not None
    assert login.pin.reveal() == b"crypto-user:hunter2"


def test_marks_tell_pins_apart_and_hide_them(tmp_path: Path) -> None:
    first = LoginSource(pin_file(tmp_path, "1234")).read()
    again = LoginSource(pin_file(tmp_path, "1234")).read()
    other = LoginSource(pin_file(tmp_path, "5678")).read()
    assert first.mark == again.mark
    assert first.mark != other.mark
    assert b"1234" not in first.mark
    assert "1234" not in repr(first)


def test_a_changed_file_is_read_anew_and_a_missing_one_is_a_problem(tmp_path: Path) -> None:
    source = LoginSource(pin_file(tmp_path, "1234"))
    before = source.read().mark
    pin_file(tmp_path, "5678")
    assert source.read().mark != before
    (tmp_path / "pin").unlink()
    with pytest.raises(PinProblem, match="pin"):
        source.read()


def test_a_refused_pin_is_known_until_it_is_forgiven(tmp_path: Path) -> None:
    source = LoginSource(pin_file(tmp_path, "1234"))
    mark = source.read().mark
    assert mark not in source.refused
    source.refused.add(mark)
    assert source.read().mark in source.refused
    source.refused.forgive()
    assert mark not in source.refused
