from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from hsm.cli.share_handout import handed_out, text_of
from hsm.cli.terminal import CLEAR_SCREEN
from hsm.store.errors import StoreError
from hsm.store.share_text import decode
from hsm.store.shares import deal

MADE = deal(2, 3)


def test_a_share_says_what_it_is_and_is_read_again() -> None:
    text = text_of(MADE.shares[1], MADE, Path("/var/lib/vault.db"))
    assert decode(text) == MADE.shares[1]
    first, second, *lines = text.splitlines()
    assert first.startswith(f"# Sealgate: share 2 of 3, set {MADE.share_set.name}, made 20")
    assert first.endswith("for vault.db")
    assert "/var" not in text
    assert "Any 2 of the 3 open the vault" in second
    assert len(lines) == 3


def test_on_a_screen_each_share_is_cleared_before_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def prompt(question: str, **_options: object) -> str:
        asked.append(question)
        return ""

    monkeypatch.setattr(typer, "prompt", prompt)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with handed_out(MADE, None, Path("v.db")):
        pass
    shown = capsys.readouterr().out.split(CLEAR_SCREEN)
    assert [question.split("?")[0] for question in asked] == [f"Is share {number} written down" for number in (1, 2, 3)]
    assert [text_of(share, MADE, Path("v.db")) in text for share, text in zip(MADE.shares, shown, strict=False)] == [
        True
    ] * 3
    assert shown[3] == ""


def test_files_are_removed_when_the_vault_is_not_made(tmp_path: Path) -> None:
    def make() -> None:
        with handed_out(MADE, tmp_path, Path("v.db")):
            assert len(list(tmp_path.iterdir())) == 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_not_overwritten_or_removed(tmp_path: Path) -> None:
    in_the_way = tmp_path / f"share-{MADE.share_set.name}-2-of-3.txt"
    in_the_way.write_text("mine")
    with pytest.raises(StoreError, match="never overwritten"), handed_out(MADE, tmp_path, Path("v.db")):
        pytest.fail("the vault must not be made")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    tmp_path.chmod(0o777)
    with pytest.raises(StoreError, match="chmod go-w"), handed_out(MADE, tmp_path, Path("v.db")):
        pytest.fail("the vault must not be made")
