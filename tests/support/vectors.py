"""Reads the hand-made frames of tests/vectors."""

from __future__ import annotations

from pathlib import Path

VECTORS = Path(__file__).parents[1] / "vectors"


def load_vectors(file_name: str) -> dict[str, bytes]:
    """The frames of a file by name."""
    return parse_vectors((VECTORS / file_name).read_text("utf-8"))


def parse_vectors(text: str) -> dict[str, bytes]:
    """Frames by name: "== name" opens one, "#" starts a comment, the rest is hex."""
    digits: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        code = line.split("#")[0].strip()
        if code.startswith("=="):
            name = code[2:].strip()
            assert name not in digits, f"two frames are called {name}"
            digits[name] = ""
        elif code:
            digits[name] += code
    return {name: bytes.fromhex(code) for name, code in digits.items()}
