"""`python -m bench` runs both servers and writes its rows; what they say is for a quiet machine, not for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {"name", "ours", "theirs", "unit", "ratio", "pairs", "spread", "note"}


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("handshakes", ["handshake-p256-tls13", "handshake-rsa2048-tls13"]),
        ("rate", ["handshake-rate-20ms"]),
        ("nodes", ["node-vault-p256", "node-vault-rsa2048", "node-softhsm-p256", "node-softhsm-rsa2048"]),
    ],
)
def test_the_benchmark_measures_both_sides(tmp_path: Path, what: str, names: list[str]) -> None:
    out = tmp_path / "rows.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--pairs", "1", "--seconds", "0.5", "--only", what, "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert set(row) == KEYS
        assert row["ours"] > 0
        assert row["theirs"] > 0
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"], rel=0.02)
        assert row["name"] in done.stdout
