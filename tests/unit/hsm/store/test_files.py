from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hsm.store import files
from hsm.store.errors import StoreError, StoreReason


def test_created_files_are_private_and_never_replace_others(tmp_path: Path) -> None:
    path = tmp_path / "f"
    before = os.umask(0)
    try:
        files.create_private(path, b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files.read_private(path, 4) == b"data"
    with pytest.raises(StoreError, match="exists already; it is never overwritten"):
        files.create_private(path, b"other")
    assert path.read_bytes() == b"data"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError):
        files.create_private(tmp_path / "link", b"x")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777])
def test_files_that_others_may_access_are_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(StoreError, match=rf"mode 0{mode:o}\); run: chmod 600 {path}") as caught:
        files.read_private(path, 10)
    assert caught.value.reason is StoreReason.UNSAFE_FILE


def test_files_that_are_missing_too_large_or_no_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none does not exist"):
        files.read_private(tmp_path / "none", 1)
    with pytest.raises(StoreError, match="is not a regular file"):
        files.check_private_file(tmp_path)
    path = tmp_path / "f"
    files.create_private(path, b"12345")
    with pytest.raises(StoreError, match="is larger than 4 bytes"):
        files.read_private(path, 4)


def test_folders_that_others_may_write_to_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir(mode=0o700)
    files.check_private_folder(folder)
    for mode in (0o770, 0o707, 0o1777):
        folder.chmod(mode)
        with pytest.raises(StoreError, match="can be written by group or others"):
            files.check_private_folder(folder)
    folder.chmod(0o755)
    files.check_private_folder(folder)
    path = tmp_path / "f"
    path.touch()
    with pytest.raises(StoreError, match="is not a folder"):
        files.check_private_folder(path)
    with pytest.raises(StoreError, match="does not exist"):
        files.check_private_folder(tmp_path / "none")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(StoreError, match="belongs to another user"):
        files.check_private_folder(folder)
