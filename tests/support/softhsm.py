"""A SoftHSM2 token for tests: its own folder, its own configuration, nothing shared with other tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_PLACES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_MISSING = "SoftHSM2 is not installed: run `.ci/packages test`, or `apt-get install softhsm2`"


def find_module() -> str:
    """Path of libsofthsm2.so (SOFTHSM2_MODULE names it where it is elsewhere). Fails the test where it is missing."""
    for place in (os.environ.get("SOFTHSM2_MODULE", ""), *_PLACES):
        if place and Path(place).exists():
            return place
    pytest.fail(_MISSING)


class SoftToken:
    """A token in `folder`. `init` makes it; every process that has `environment` sees it."""

    def __init__(self, folder: Path, label: str = "sealgate-test", pin: str = "98765432") -> None:
        self.folder = folder
        self.label = label
        self.pin = pin
        self.so_pin = "so-pin-1234"
        self.module = find_module()
        self.config = folder / "softhsm2.conf"
        self.environment = {"SOFTHSM2_CONF": str(self.config)}

    @property
    def uri(self) -> str:
        """Names the token and its library; no PIN."""
        return f"pkcs11:token={self.label}?module-path={self.module}"

    def pin_file(self) -> Path:
        """A private file with the PIN."""
        path = self.folder / "pin"
        path.write_text(self.pin + "\n")
        path.chmod(0o600)
        return path

    def init(self) -> SoftToken:
        """Make the token, empty, with its PINs."""
        tokens = self.folder / "tokens"
        tokens.mkdir(parents=True, exist_ok=True)
        self.config.write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
        )
        self.util("--init-token", "--free", "--label", self.label, "--pin", self.pin, "--so-pin", self.so_pin)
        return self

    def wipe(self) -> None:
        """Take the token away, with all its keys."""
        shutil.rmtree(self.folder / "tokens")
        (self.folder / "tokens").mkdir()

    def util(self, *arguments: str) -> str:
        """Run softhsm2-util on this token's folder; what it said. Fails the test where it fails."""
        program = shutil.which("softhsm2-util")
        if program is None:
            pytest.fail(_MISSING)
        environment = {**os.environ, **self.environment}
        command = [program, "--module", self.module, *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, f"softhsm2-util {arguments[0]} failed: {run.stdout}{run.stderr}"
        return run.stdout
