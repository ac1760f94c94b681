from __future__ import annotations

import subprocess
import sys

import pytest

from certs.sites import DevSite


@pytest.mark.parametrize(
    ("site", "names", "file_name"),
    [
        (DevSite("localhost"), ("localhost", "127.0.0.1", "::1"), "localhost"),
        (DevSite("localhost", ("localhost",)), ("localhost",), "localhost"),
        (DevSite("*.Example.test"), ("*.Example.test",), "wildcard.example.test"),
        (DevSite("2001:db8::1"), ("2001:db8::1",), "2001-db8--1"),
    ],
)
def test_names_and_files(site: DevSite, names: tuple[str, ...], file_name: str) -> None:
    assert (site.all_names, site.file_name) == (names, file_name)


def test_command_lines_may_import_it_at_once() -> None:
    program = "import sys, certs.sites; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
