"""Unit tests mirror the source, so that a reader finds the tests of a file without searching."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "tests" / "unit"
ELSEWHERE = {
    "proxy/demo": "tests/behaviour runs the demo as a program",
    "proxy/__main__.py": "one line",
    "hsm/__main__.py": "one line",
    "proxy/run/app.py": "tests/behaviour runs it",
}


def test_each_unit_test_has_its_source() -> None:
    for test in UNIT.rglob("test_*.py"):
        inside = test.relative_to(UNIT)
        source = ROOT / inside.parent / inside.name.removeprefix("test_")
        package = source.with_suffix("")
        beside = any((ROOT / inside.parent).glob("*.py"))
        assert source.exists() or package.is_dir() or beside, f"{test.relative_to(ROOT)} tests nothing that exists"


def test_each_source_room_has_unit_tests() -> None:
    for top in ("proxy", "hsm", "certs"):
        for source in (ROOT / top).rglob("*.py"):
            name = str(source.relative_to(ROOT))
            if not source.read_text().strip() or source.name in ("__init__.py",):
                continue
            if any(name.startswith(prefix) for prefix in ELSEWHERE):
                continue
            folder = UNIT / source.relative_to(ROOT).parent
            assert any(folder.rglob("test_*.py")), f"{folder.relative_to(ROOT)} holds no test for {name}"
