from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import typer

from hsm.cli import vault_ways
from hsm.cli.vault_ways import Refused, Way, ask_share, new_deal, parse_size, present_unlock, read_share
from hsm.shared.logs import Secret
from hsm.store import files
from hsm.store.errors import StoreError
from hsm.store.master_key import KeyFile, Passphrase, SharedSecret, TokenKey, wrap
from hsm.store.share_text import encode, is_complete
from hsm.store.shares import deal

MASTER, CLUSTER = Secret(bytes(32)), bytes(16)
BY_KEY_FILE = wrap(MASTER, KeyFile(Secret(bytes(32))), CLUSTER)
BY_TOKEN = wrap(MASTER, TokenKey("wrap", lambda _data: bytes(32)), CLUSTER)
MADE = deal(2, 3)
BY_SHARES = wrap(MASTER, SharedSecret(MADE.secret, MADE.share_set), CLUSTER)


def test_sizes_are_written_m_of_n() -> None:
    assert parse_size("3/5") == (3, 5)
    for text in ("3", "3/", "/5", "3/5/7", "-3/5", "3 / 5", "٣/٥", "3/5\n"):
        with pytest.raises(typer.BadParameter, match="M/N"):
            parse_size(text)
    assert new_deal(Way()) is None
    made = new_deal(Way(shares="2/4"))
    assert made is not None
    assert (made.share_set.threshold, made.share_set.count) == (2, 4)


def test_at_most_one_way_is_named() -> None:
    Way().check()
    Way(key_file=Path("k")).check()
    with pytest.raises(typer.BadParameter, match="give --old-key-file or --old-wrapping-key, not both"):
        Way(key_file=Path("k"), wrapping_key="pkcs11:x", prefix="--old-").check()


def test_what_is_not_named_and_can_not_be_asked_is_said() -> None:
    for header, words in (
        (BY_KEY_FILE, "opened by a key-file; name it with --old-key-file"),
        (BY_TOKEN, r"wrapping key in a PKCS#11 token \(wrap\); name it with --old-wrapping-key"),
        (BY_SHARES, "a share can be typed at a terminal only"),
    ):
        with pytest.raises(Refused, match=words):
            present_unlock(Way(prefix="--old-"), header)
    with pytest.raises(Refused, match="not opened by shares but by a key-file"):
        present_unlock(Way(share_files=(Path("x"),)), BY_KEY_FILE)


def test_wrong_share_files_are_named(tmp_path: Path) -> None:
    good, other = tmp_path / "good", tmp_path / "other"
    files.create_private(good, encode(MADE.shares[0]).encode())
    files.create_private(other, encode(deal(2, 3).shares[0]).encode())
    with pytest.raises(Refused, match=r"other: share 1 of set \w+ belongs to another vault"):
        present_unlock(Way(share_files=(good, other)), BY_SHARES)
    with pytest.raises(Refused, match="good: share 1 was given already"):
        present_unlock(Way(share_files=(good, good)), BY_SHARES)
    with pytest.raises(Refused, match="1 more share is needed"):
        present_unlock(Way(share_files=(good,)), BY_SHARES)


def test_files_that_others_can_read_are_no_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "share"
    path.write_text(encode(MADE.shares[0]))
    path.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        read_share(path)
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(Refused, match="is not text; is it a share"):
        read_share(path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped"))
    assert read_share(Path("-")) == "piped"


def test_typing_ends_when_the_share_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_ways, "is_terminal", lambda: True)
    monkeypatch.setattr(sys, "stdin", io.StringIO(encode(MADE.shares[0]) + "\nnot read\n"))
    assert ask_share().strip() == encode(MADE.shares[0])
    assert not is_complete("# " + "A" * 90)
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with pytest.raises(Refused, match="no share was typed"):
        ask_share()


def test_who_can_not_type_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_ways, "ask_share", lambda **_: "AAAAA")
    with pytest.raises(Refused, match="too many wrong shares"):
        present_unlock(Way(), BY_SHARES)


def test_without_a_terminal_the_option_for_share_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_ways, "is_terminal", lambda: False)
    with pytest.raises(Refused, match="at a terminal only; give --old-share-file, once for each"):
        present_unlock(Way(prefix="--old-"), BY_SHARES)
    with pytest.raises(Refused, match="at a terminal only; give --share-file"):
        ask_share()


def test_files_open_what_they_are_given_for(tmp_path: Path) -> None:
    files.create_private(tmp_path / "words", b"hunter2")
    files.create_private(tmp_path / "key", bytes(32))
    assert isinstance(present_unlock(Way(passphrase_file=tmp_path / "words"), BY_KEY_FILE), Passphrase)
    assert isinstance(present_unlock(Way(key_file=tmp_path / "key"), BY_SHARES), KeyFile)
