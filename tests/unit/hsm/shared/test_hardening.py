from __future__ import annotations

import json
import resource
import subprocess
import sys

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
