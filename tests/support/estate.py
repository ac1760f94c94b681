"""A node with every kind of token and every kind of key, all of whose secrets are known: made by command, as users do.

`vault` is opened by a passphrase, `shared` by two of three shares, `soft` is a SoftHSM2 token, `sim` a simulated one.
What is meant to hold secrets lies in `secrets/`; nothing else may.
"""

from __future__ import annotations

import json
import os
import secrets as random_secrets
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from typer.testing import CliRunner

from hsm.cli.management_client import call
from hsm.store.share_text import decode
from hsm.store.shares import Share
from hsm.wire.schemes import KeyType
from tests.support.node import PROXY, NodeHome, make_home
from tests.support.secret_search import PrivateKey, Secrets
from tests.support.softhsm import SoftToken

PATIENCE_S = 30.0
TYPES = tuple(type_ for type_ in KeyType if type_ is not KeyType.RSA_OTHER)
SLOW_IN_SOFTHSM = frozenset({KeyType.RSA_3072, KeyType.RSA_4096})
"""SoftHSM2 takes many seconds to make these; it is given them."""
_CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.P384: ec.SECP384R1(), KeyType.P521: ec.SECP521R1()}


def make_key(type_: KeyType) -> PrivateKey:
    """A key of our own."""
    if type_ is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    if type_ in _CURVES:
        return ec.generate_private_key(_CURVES[type_])
    return rsa.generate_private_key(65537, int(type_.value.removeprefix("rsa-")))


@dataclass
class Estate:
    """Everything in one folder. `outputs` collects what programs said, by what was asked."""

    folder: Path
    secrets: Secrets = field(default_factory=Secrets)
    outputs: dict[str, bytes] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=lambda: {"vault": [], "soft": []})
    """Labels of keys, by token."""
    ready: dict[str, Any] = field(default_factory=dict)
    home: NodeHome = field(init=False)
    soft: SoftToken = field(init=False)
    node: subprocess.Popen[bytes] = field(init=False)

    @property
    def kept(self) -> Path:
        """The folder that may hold secrets."""
        return self.folder / "secrets"

    @property
    def place(self) -> Path:
        """The node's folder."""
        return self.folder / "node"

    @property
    def config(self) -> Path:
        """The node's config."""
        return self.place / "node-1.toml"

    @property
    def wrapping_uri(self) -> str:
        """Of a secret key in the token."""
        return (
            f"pkcs11:token={self.soft.label};object=wrapping?module-path={self.soft.module}"
            f"&pin-source=file:{self.kept / 'pin'}"
        )

    def keep(self, name: str, data: bytes, *, is_secret: bool = True) -> Path:
        """A file that holds a secret."""
        path = self.kept / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        if is_secret:
            self.secrets.add(name, data.strip())
        return path

    def command(self, *arguments: str, status: int | None = 0) -> str:
        """Runs `sealgate ...` here and keeps what it says. `status` None: whatever comes."""
        from proxy.cli import app

        result = CliRunner().invoke(app, list(arguments), env=self.soft.environment)
        name = f"sealgate {' '.join(arguments)}"
        self.outputs[name] = f"{result.stdout}\n{result.stderr}\n{result.exception!r}".encode()
        self.exit_codes[name] = result.exit_code
        if status is not None:
            assert result.exit_code == status, (name, result.output, result.exception)
        return result.stdout

    def make(self) -> Estate:
        """Stores, token, config; no keys yet."""
        for folder in (self.folder, self.kept, self.place):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.home = make_home(self.place, ())
        self.secrets.add("master.key", self.home.key_file.read_bytes())
        pin, so_pin = (random_secrets.token_hex(10) for _ in range(2))
        self.soft = SoftToken(self.place / "softhsm", "estate", pin)
        self.soft.so_pin = so_pin
        self.soft.init()
        self.secrets.add("security officer's PIN", so_pin.encode())
        self.keep("pin", pin.encode() + b"\n")
        self.keep("passphrase", random_secrets.token_urlsafe(24).encode() + b"\n")
        self.keep("import-password", random_secrets.token_urlsafe(24).encode() + b"\n")
        self._make_vaults()
        self._write_config()
        return self

    def _make_vaults(self) -> None:
        store, passphrase = str(self.place / "main.db"), str(self.kept / "passphrase")
        self.command("vault", "init", "--store", store, "--passphrase-file", passphrase)
        shares = self.kept / "shares"
        shares.mkdir(mode=0o700)
        shared = str(self.place / "shared.db")
        self.command("vault", "init", "--store", shared, "--shares", "2/3", "--share-dir", str(shares))
        for path in sorted(shares.iterdir()):
            self._add_share(path)

    def _add_share(self, path: Path) -> None:
        share = decode(path.read_text())
        assert isinstance(share, Share), share
        self.secrets.add(f"{path.name} body", share.body)
        lines = [line.strip() for line in path.read_text().splitlines() if line and not line.startswith("#")]
        for number, line in enumerate(lines):
            self.secrets.add(f"{path.name} line {number}", line.encode())

    @property
    def shares(self) -> list[Path]:
        """The files of the shares."""
        return sorted((self.kept / "shares").iterdir())

    def _write_config(self) -> None:
        secrets_at = os.path.relpath(self.kept, self.place)
        tokens = (
            f'[[tokens]]\nname = "vault"\ntype = "vault"\nstore = "main.db"\n'
            f'passphrase_file = "{secrets_at}/passphrase"\n'
            f'[[tokens]]\nname = "shared"\ntype = "vault"\nstore = "shared.db"\nshares = true\n'
            f'[[tokens]]\nname = "soft"\ntype = "pkcs11"\nuri = "{self.soft.uri}"\npin_file = "{secrets_at}/pin"\n'
            f'rescan_interval_s = 0.5\nenvironment = {{ SOFTHSM2_CONF = "{self.soft.config}" }}\n'
            + self.home.vault_token("sim", 'type = "simulated"\ni_know_this_is_not_an_hsm = true')
        )
        access = f'[[access]]\nclient = "{PROXY}"\nkeys = ["imported-*", "made-*"]\n[log]\nlevel = "debug"\n'
        path = self.home.write_config("node-1", access, tokens=tokens)
        assert path == self.config

    def start(self) -> None:
        """Starts the node; it waits for shares then, and `wait_until_ready` for it."""
        command = [sys.executable, "-m", "hsm", "node", "run", "--config", str(self.config)]
        with (self.place / "node.log").open("wb") as log:
            self.node = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        socket = self.place / "node-1.sock"
        self._wait(lambda: socket.exists() and call(socket, "GET", "/unseal")["sealed"])

    def wait_until_ready(self) -> None:
        """Until the node serves."""
        self._wait(lambda: any(line.get("event") == "node_ready" for line in self._lines()))
        self.ready = next(line for line in self._lines() if line.get("event") == "node_ready")

    def _lines(self) -> list[dict[str, Any]]:
        lines = (self.place / "node.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def _wait(self, is_true: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not is_true():
            assert self.node.poll() is None, (self.place / "node.log").read_text()
            assert time.monotonic() < deadline, (self.place / "node.log").read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends the node."""
        if hasattr(self, "node"):
            self.node.terminate()
            self.node.wait(PATIENCE_S)

    def import_keys(self) -> None:
        """A key of each kind into each token, by command; each second one is encrypted with a password."""
        for token in self.labels:
            for number, type_ in enumerate(TYPES):
                label = f"imported-{token}-{type_.value}"
                key = make_key(type_)
                self.secrets.add_key(label, key)
                has_password = bool(number % 2)
                password = (self.kept / "import-password").read_bytes().strip()
                cipher: KeySerializationEncryption = (
                    BestAvailableEncryption(password) if has_password else NoEncryption()
                )
                pem = self.keep(
                    f"{label}.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, cipher), is_secret=False
                )
                more = ("--password-file", str(self.kept / "import-password")) if has_password else ()
                self.command("key", "import", label, str(pem), "--token", token, "--config", str(self.config), *more)
                self.labels[token].append(label)

    def generate_keys(self) -> None:
        """A key of each kind in each token."""
        for token in self.labels:
            for type_ in TYPES:
                if token == "soft" and type_ in SLOW_IN_SOFTHSM:
                    continue
                label = f"made-{token}-{type_.value}"
                where = ("--token", token, "--config", str(self.config), "--json")
                self.command("key", "generate", label, "--type", type_.value, *where)
                self.labels[token].append(label)

    def look_at_processes(self) -> None:
        """Arguments and environment of the node and of all that it started, as far as this user may see them."""
        node = psutil.Process(self.node.pid)
        for process in (node, *node.children(recursive=True)):
            for name in ("cmdline", "environ", "status", "comm", "maps"):
                try:
                    self.outputs[f"/proc/{process.pid}/{name}"] = Path(f"/proc/{process.pid}/{name}").read_bytes()
                except PermissionError:  # the process is not dumpable: only root may look
                    assert os.geteuid() != 0
                    assert name in ("environ", "maps")
