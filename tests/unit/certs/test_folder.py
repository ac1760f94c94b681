from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from certs import folder
from certs.authority import PkiError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_made_private(tmp_path: Path) -> None:
    made = tmp_path / "a" / "b"
    folder.make_private(made)
    folder.make_private(made)
    assert mode(made) == 0o700
    made.chmod(0o770)
    with pytest.raises(PkiError, match="can be written by others"):
        folder.make_private(made)
    (tmp_path / "file").touch()
    with pytest.raises(PkiError, match="is not a folder"):
        folder.make_private(tmp_path / "file")
    with pytest.raises(PkiError, match="can't be made"):
        folder.make_private(tmp_path / "file" / "x")


def test_files_are_replaced_whole_with_their_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o666)
    folder.write(path, b"secret", is_private=True)
    assert (path.read_bytes(), mode(path)) == (b"secret", 0o600)
    before = os.umask(0o077)
    try:
        folder.write(path, b"public", is_private=False)
    finally:
        os.umask(before)
    assert (path.read_bytes(), mode(path)) == (b"public", 0o644)
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(PkiError, match="can't be written: No such file"):
        folder.write(tmp_path / "none" / "f", b"", is_private=True)


def test_there_is_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        folder.only_writer(tmp_path),
        pytest.raises(PkiError, match="another program is making certificates"),
        folder.only_writer(tmp_path),
    ):
        pass
    with folder.only_writer(tmp_path):
        pass
