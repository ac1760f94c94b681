"""Files and functions stay small enough to be read in one go."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES, C_LINES = 400, 60, 800
LONG_FILES: set[str] = set()
"""Files that may be longer, by name and for a reason; the list may only shrink."""
SOURCES = sorted(p for top in ("proxy", "hsm", "certs", "bench", "tests") for p in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text()
    name = str(path.relative_to(ROOT))
    is_test = name.startswith("tests/")
    limit = FILE_LINES * 2 if is_test else FILE_LINES
    assert len(text.splitlines()) <= limit or name in LONG_FILES, f"{name} has outgrown its room"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_test:
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{name}:{node.lineno}: {node.name} has {length} lines"


def test_c_files_are_short() -> None:
    for path in (ROOT / "proxy" / "native").glob("*.c"):
        assert len(path.read_text().splitlines()) <= C_LINES, path


@pytest.mark.parametrize(
    "path",
    [p for p in SOURCES if "tests" not in p.parts[len(ROOT.parts) : len(ROOT.parts) + 1]],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path.relative_to(ROOT)} has no docstring"
