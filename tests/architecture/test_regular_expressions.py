"""Expressions that decide what is let through must match alike on every Python that is supported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [p for top in ("proxy", "hsm", "certs") for p in sorted((ROOT / top).rglob("*.py"))]
POSSESSIVE_GROUP = re.compile(r"\)(?:[*+?]|\{[0-9,]+\})\+|\(\?>")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_possessive_groups(path: Path) -> None:
    """CPython before 3.11.5 matches them wrongly (gh-106052); it let a malformed chunk line pass."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.lstrip().startswith("#"):
            assert not POSSESSIVE_GROUP.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
