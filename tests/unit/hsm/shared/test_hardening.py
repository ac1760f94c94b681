from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hsm.shared import hardening

PROGRAM = """
import ctypes, json, resource
from hsm.shared.hardening import harden_process
harden_process()
harden_process()
prctl = ctypes.CDLL(None).prctl
print(json.dumps([prctl(3, 0, 0, 0, 0), prctl(39, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux")
def test_a_hardened_process_is_not_dumpable_and_gains_no_privileges() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(run.stdout) == [0, 1, [0, 0]]
    assert run.stderr == ""


def test_a_refused_step_is_logged_and_the_others_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def refuse(option: int, _value: int) -> None:
        taken.append(option)
        raise OSError("not here")

    monkeypatch.setattr(hardening, "_prctl", refuse)
    monkeypatch.setattr(resource, "setrlimit", lambda *_: taken.append(-1))
    with capture_logs() as logs:
        hardening.harden_process()
    assert taken == [-1, 4, 38]
    assert [entry["step"] for entry in logs] == ["not_dumpable", "no_new_privileges"]


def test_core_files_alone_can_be_forbidden() -> None:
    probe = (
        "import ctypes, resource; from hsm.shared.hardening import forbid_core_files; forbid_core_files();"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("(0, 0) 1\n", "")


LOCKED = """
import json, resource, sys, threading
limit = json.loads(sys.argv[1])
if limit is not None:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
from hsm.shared import hardening
from hsm.shared.logs import configure
configure("test", fmt="json", level="warning")
if sys.argv[2] == "without-capability":
    hardening._has_lock_capability = lambda: False
hardening.harden_process(locks_memory=True)
# Life goes on: big allocations, threads with their stacks.
memory = bytearray(64 * 1024 * 1024)
threads = [threading.Thread(target=lambda: bytearray(1024 * 1024)) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith("Vm"))
print(json.dumps([int(status["VmLck"].split()[0]), int(status["VmSize"].split()[0]), int(status["VmRSS"].split()[0])]))
"""


def locked(limit: int | None, capability: str) -> tuple[list[int], str]:
    """VmLck, VmSize and VmRSS in KiB of a process that locked its memory, and what it logged."""
    command = [sys.executable, "-c", LOCKED, json.dumps(limit), capability]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(run.stdout), run.stderr


@pytest.mark.skipif(not hardening._has_lock_capability(), reason="this user may not lock memory")
def test_memory_is_locked_now_and_later_without_being_filled() -> None:
    (lck, size, rss), logged = locked(None, "with-capability")
    assert logged == ""
    assert lck > 0.9 * size  # all but what the kernel itself maps
    assert lck > 64 * 1024 < rss
    assert rss < size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mlockall is Linux")
def test_where_the_limit_is_too_small_nothing_is_locked_and_nothing_fails_later() -> None:
    (lck, _size, _rss), logged = locked(1024 * 1024, "without-capability")
    assert lck == 0
    entry = json.loads(logged)
    assert (entry["event"], entry["level"]) == ("memory_not_locked", "warning")
    assert entry["error"] == "the limit of locked memory is 1048576 bytes"
    assert "LimitMEMLOCK=infinity" in entry["hint"]


def test_a_system_that_refuses_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> None:
        raise OSError("not here")

    monkeypatch.setattr(hardening, "_mlockall", refuse)
    monkeypatch.setattr(hardening, "_lock_limit", lambda: None)
    assert hardening.lock_memory() == "not here"


@pytest.mark.parametrize(
    ("status", "uid_map", "expected"),
    [
        ("CapEff:\t000001ffffffffff\n", "0 0 4294967295\n", True),
        ("CapEff:\t0000000000004000\n", "         0          0 4294967295\n", True),
        ("CapEff:\t000001ffffffbfff\n", "0 0 4294967295\n", False),
        ("CapEff:\t000001ffffffffff\n", "0 1000 1\n", False),
        ("", "0 0 4294967295\n", False),
        ("CapEff:\tzz\n", "?\n", False),
    ],
)
def test_the_capability_counts_outside_of_user_namespaces_only(
    status: str, uid_map: str, expected: bool, tmp_path: Path
) -> None:
    (tmp_path / "status").write_text("Name:\tx\n" + status)
    (tmp_path / "uid_map").write_text(uid_map)
    assert hardening._has_lock_capability(tmp_path) is expected
    assert not hardening._has_lock_capability(tmp_path / "none")
