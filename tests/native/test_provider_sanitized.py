"""The provider's C code under AddressSanitizer and UBSan: alone with libcrypto, and in real Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NATIVE = ROOT / "proxy" / "native"
SOURCES = sorted(str(path) for path in NATIVE.glob("*.c"))
PYTHON_HEADERS = sysconfig.get_path("include")
FLAGS = [
    *("-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    *(f"-I{PYTHON_HEADERS}", f"-I{NATIVE}"),
]


def library(name: str) -> str:
    gcc = shutil.which("gcc")
    if gcc is None:
        return ""
    found = subprocess.run([gcc, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
    return found if os.path.isabs(found) else ""


pytestmark = pytest.mark.skipif(
    not library("libasan.so") or not library("libcrypto.so"), reason="needs gcc with libasan, and libssl-dev"
)


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[:8000]
    return done.stdout


def test_with_libcrypto_alone_and_each_allocation_failing(tmp_path: Path) -> None:
    harness = tmp_path / "harness"
    sources = [HERE / "harness.c", HERE / "stub_python.c", *SOURCES]
    wrap = ["-Wl,--wrap=malloc,--wrap=calloc"]
    run("gcc", *FLAGS, "-o", harness, *sources, *wrap, "-lcrypto", "-lpthread")
    said = run(harness, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=1")
    assert said.endswith("all is well\n")


def test_in_python_with_suspended_handshakes(tmp_path: Path) -> None:
    """Without stack red zones: greenlet copies stacks, which AddressSanitizer would take for a fault."""
    extension = tmp_path / f"_provider{sysconfig.get_config_var('EXT_SUFFIX')}"
    script = f"-Wl,--version-script={NATIVE / 'provider.map'}"
    run("gcc", *FLAGS, "--param", "asan-stack=0", "-fPIC", "-shared", script, "-o", extension, *SOURCES)
    said = run(
        *(sys.executable, HERE / "sanitized_play.py", extension),
        LD_PRELOAD=f"{library('libasan.so')} {library('libstdc++.so.6')}",  # greenlet throws C++ exceptions
        ASAN_OPTIONS="detect_leaks=0",  # Python leaves things behind on purpose
        PYTHONMALLOC="malloc",
        PYTHONPATH=str(ROOT),
    )
    assert said.endswith("all is well\n")


def test_it_exports_its_two_entries_and_wants_no_openssl() -> None:
    from proxy.tls import _provider

    exported = run("nm", "-D", "--defined-only", _provider.__file__)
    assert sorted(line.split()[-1] for line in exported.splitlines()) == ["OSSL_provider_init", "PyInit__provider"]
    wanted = [line.split()[-1].split("@")[0] for line in run("nm", "-D", "-u", _provider.__file__).splitlines()]
    own = ("Py", "_Py", "_ITM", "__", "mem", "str", "malloc", "calloc", "free")
    assert [name for name in wanted if not name.startswith(own)] == []
