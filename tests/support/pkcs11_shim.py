"""The test's side of tests/native/pkcs11_shim.c: builds it, and switches faults of a module while it is used."""

from __future__ import annotations

import mmap
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "native" / "pkcs11_shim.c"
EVER = 0xFFFFFFFF
"""A fault that is made until it is set to 0."""
FAULTS = (
    "device_error",
    "busy",
    "lost_sessions",
    "logouts",
    "latency_ms",
    "hang",
    "segfaults",
    "token_gone",
    "wrong_signature",
    "empty_finds",
)
SEEN = ("sessions_opened", "logins", "sign_inits", "signs", "faults_made", "login_tries")
_FIELDS = (*FAULTS, *SEEN)
_U32 = struct.Struct("=I")


def build_shim(folder: Path) -> Path:
    """Compiles the shim into `folder`. Fails the test where the compiler warns."""
    library = folder / "libpkcs11shim.so"
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wstrict-prototypes", "-Wmissing-prototypes"]
    command = [
        "cc",
        "-std=c11",
        "-O2",
        *warnings,
        "-fvisibility=hidden",
        "-shared",
        "-fPIC",
        "-pthread",
        str(SOURCE),
        "-o",
        str(library),
        "-ldl",
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    return library


class Shim:
    """A module seen through the shim, with a control file of its own."""

    def __init__(self, folder: Path, module: str, environment: Mapping[str, str], library: Path) -> None:
        self.module = str(library)
        control = folder / "shim.control"
        control.write_bytes(bytes(_U32.size * len(_FIELDS)))
        self.environment = {**environment, "SHIM_MODULE": module, "SHIM_CONTROL": str(control)}
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def __getitem__(self, field: str) -> int:
        return int(_U32.unpack_from(self._memory, _U32.size * _FIELDS.index(field))[0])

    def __setitem__(self, field: str, value: int) -> None:
        _U32.pack_into(self._memory, _U32.size * _FIELDS.index(field), value)

    def lose_sessions(self) -> None:
        """Every session that is open now is invalid for ever."""
        self["lost_sessions"] += 1

    def log_out(self) -> None:
        """Nobody is logged in until somebody logs in again."""
        self["logouts"] += 1

    def clear(self) -> None:
        """No fault from now on; what was lost stays lost."""
        for field in FAULTS:
            if field not in ("lost_sessions", "logouts"):
                self[field] = 0

    def close(self) -> None:
        self._memory.close()
