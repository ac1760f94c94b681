"""Imports go down: a room knows only rooms of a smaller level, and `hsm` never knows `proxy`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEVELS = {
    "hsm.wire": 0,
    "hsm.shared": 0,
    "hsm.store": 1,
    "hsm.backends": 1,
    "hsm.node": 2,
    "hsm.cli": 3,
    "proxy.base": 1,
    "proxy.config": 2,
    "proxy.signing": 2,
    "proxy.tls": 3,
    "proxy.http": 3,
    "proxy.edge": 4,
    "proxy.run": 5,
    "certs": 3,
    "proxy.demo": 6,
    "proxy.chaos": 7,
    "proxy.cli": 8,
    "proxy.__main__": 9,
    "hsm.__main__": 9,
}
OPEN_TO_PROXY = {"hsm.wire", "hsm.shared"}
"""What of `hsm` the proxy may import; the command line and the demo are where both programs meet."""
MEETING_POINTS = {"proxy.cli", "proxy.demo", "proxy.chaos"}
EQUALS = {("hsm.backends", "hsm.store")}
"""The vault, a backend, keeps its records in the store."""
PURE = (
    *("hsm/wire/*.py", "proxy/base/*.py"),
    *("hsm/node/access.py", "hsm/node/admission.py", "hsm/node/tls_messages.py", "hsm/node/rates.py"),
    "hsm/node/usage.py",
    *("hsm/backends/pkcs11/uri.py", "hsm/backends/pkcs11/framing.py", "hsm/backends/pkcs11/results.py"),
    *("hsm/backends/pkcs11/der.py", "hsm/backends/pkcs11/translate.py", "hsm/backends/pkcs11/session_state.py"),
    *("proxy/signing/inventory.py", "proxy/signing/health.py", "proxy/signing/selection.py", "proxy/signing/router.py"),
    *("proxy/signing/latency.py", "proxy/signing/window.py", "proxy/signing/budget.py", "proxy/signing/results.py"),
    *("proxy/signing/hedging.py", "proxy/signing/endings.py", "proxy/signing/attempts.py", "proxy/signing/fleet.py"),
    *("proxy/signing/queueing.py", "proxy/signing/waiting.py", "proxy/signing/headroom.py"),
    *("proxy/signing/commands.py", "proxy/signing/facts.py"),
    *(
        "proxy/tls/sites.py",
        "proxy/tls/events.py",
        "proxy/tls/hello.py",
        "proxy/http/headers.py",
        "proxy/http/framing.py",
        "proxy/edge/limits.py",
        "proxy/edge/door.py",
        "proxy/edge/phase.py",
        "proxy/signing/pressure.py",
        "proxy/signing/silence.py",
        "proxy/signing/backoff.py",
        "proxy/signing/discovery.py",
        "proxy/signing/roster.py",
        "proxy/config/checks.py",
        "proxy/config/node_checks.py",
        "proxy/config/findings.py",
        "proxy/config/names.py",
    ),
    *("proxy/run/fleet_headroom.py", "proxy/run/fleet_view.py"),
    *("proxy/chaos/faults.py", "proxy/chaos/figures.py", "proxy/chaos/judge.py", "proxy/chaos/report.py"),
    *("proxy/chaos/schedule.py", "proxy/chaos/shares.py"),
)
IMPURE = {"asyncio", "socket", "ssl", "time", "logging", "structlog", "threading", "subprocess"}


def room_of(module: str) -> str | None:
    """The room a dotted module name belongs to, or None for other people's modules."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        if name in LEVELS:
            return name
    return None


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    return [p for top in ("proxy", "hsm", "certs") for p in sorted((ROOT / top).rglob("*.py"))]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_allowed(room: str, other: str) -> bool:
    if room == other or (room, other) in EQUALS:
        return True
    if room.startswith("hsm") and other.startswith("proxy"):
        return False
    if room.startswith("proxy") and other.startswith(("hsm", "certs")) and room not in MEETING_POINTS:
        return other in OPEN_TO_PROXY
    return LEVELS[other] < LEVELS[room]


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(module_of(path))
    if room is None:
        assert path.name == "__init__.py", f"{path} is in no room: give it a level"
        return
    others = {other for name in imports_of(path) if (other := room_of(name))}
    wrong = sorted(other for other in others if not is_allowed(room, other))
    assert not wrong, f"{path.relative_to(ROOT)} ({room}) may not import {wrong}"


@pytest.mark.parametrize("pattern", PURE)
def test_cores_do_no_io(pattern: str) -> None:
    paths = sorted(ROOT.glob(pattern))
    assert paths, f"no file is named {pattern} any more: mend the list"
    for path in paths:
        impure = {name for name in imports_of(path) if name.split(".")[0] in IMPURE}
        assert not impure, f"{path.relative_to(ROOT)} is a pure core and imports {sorted(impure)}"


def test_only_the_tls_room_touches_openssl() -> None:
    for path in sources():
        if "OpenSSL" in {name.split(".")[0] for name in imports_of(path)}:
            assert room_of(module_of(path)) == "proxy.tls", path


def test_only_the_metric_files_spell_metric_names() -> None:
    users = {
        str(p.relative_to(ROOT)) for p in sources() if "prometheus_client" in {n.split(".")[0] for n in imports_of(p)}
    }
    assert users <= {"proxy/run/scrape.py", "hsm/node/metrics.py", "proxy/demo/scrape.py"}, users
