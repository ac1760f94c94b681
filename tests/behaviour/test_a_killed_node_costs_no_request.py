"""`sealgate demo --check`: SIGKILL to one of three nodes under load fails no request, and the node comes back.

The same on a vault and on a SoftHSM2 token, in both versions of TLS, with every kind of key.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.token_workers import belongs_to

WAYS = {f"{version} {key}" for version in ("TLSv1.2", "TLSv1.3") for key in ("p256", "p384", "rsa-2048")}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demo puts what is temporary; its name is short, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="sg-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("backend", ["vault", "pkcs11"])
def test_demo_check_fails_no_request_and_leaves_nothing_behind(tmp_path: Path, temporary: Path, backend: str) -> None:
    folder = tmp_path / f'a "demo" folder{" that is too deep for sockets" * 3}'
    command = [sys.executable, "-m", "proxy", "demo", "--check", "--seconds", "6", "--backend", backend]
    done = subprocess.run(
        [*command, "--dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert done.stdout.strip(), done.stderr
    verdict = json.loads(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"{verdict}\n{done.stderr}"
    assert verdict["failed"] == 0
    assert verdict["recovered"] is True
    assert verdict["requests"] > 50
    assert sorted(verdict["signatures_by_node"]) == ["node-1", "node-2", "node-3"]
    assert all(count > 0 for count in verdict["signatures_by_node"].values())
    assert sum(verdict["signatures_by_node"].values()) >= verdict["requests"], "each request took a full handshake"
    assert 0 < verdict["failover_ms_max"] < 10_000
    assert set(verdict["handshakes"]) == WAYS
    assert verdict["missing"] == []
    assert verdict["backend"] == backend
    assert [process for process in psutil.process_iter() if belongs_to(process, tmp_path)] == [], (
        "the demo must stop what it started"
    )
    assert list(temporary.iterdir()) == []
