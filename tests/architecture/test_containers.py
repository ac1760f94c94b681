"""What containers are made of fits together: Dockerfile, compose.yaml and the configs that compose mounts.

There is no container engine here. The commands of compose.yaml run as they stand, with the containers' folders moved
into a temporary one, and the programs themselves check the configs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from hsm.node.config import NodeConfig
from hsm.shared import strict_toml
from hsm.shared.addresses import parse_address
from proxy.config.schema import ProxyConfig

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONFIGS = ROOT / "config" / "compose"
NODES = ("node-1", "node-2", "node-3")
NODES_VOLUME, PROXY_VOLUME, ETC, RUN = (
    "/var/lib/sealgate",
    "/var/lib/sealgate-proxy",
    "/etc/sealgate",
    "/run/sealgate",
)


def services() -> dict[str, str]:
    """The text of every service. The file keeps to a form that needs no YAML parser: two spaces for each level."""
    block = COMPOSE[COMPOSE.index("\nservices:\n") : COMPOSE.index("\nvolumes:\n")]
    parts = re.split(r"^  ([a-z0-9-]+):\n", block, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


class Moved:
    """The containers' folders, moved under one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {PROXY_VOLUME: root / "proxy", NODES_VOLUME: root / "nodes", RUN: root / "run"}
        for folder in self.folders.values():
            folder.mkdir(mode=0o700)
        command = f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m proxy.cli "$@"\n'
        (root / "sealgate").write_text(command)
        (root / "sealgate").chmod(0o755)

    def text(self, text: str) -> str:
        """A text in which every path is where it is now."""
        for folder, place in self.folders.items():
            text = re.sub(rf"{re.escape(folder)}(?![\w-])", str(place), text)
        return text

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.root}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)

    def config(self, name: str) -> Path:
        """A config that compose mounts, with its paths moved."""
        path = self.root / name
        path.write_text(self.text((CONFIGS / name).read_text()))
        return path


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    """After the service `pki` has done its work, as it does before all others."""
    moved = Moved(tmp_path_factory.mktemp("containers"))
    script = textwrap.dedent(services()["pki"].split("      - |\n")[1].split("    volumes:")[0])
    done = moved.run("sh", "-ec", moved.text(script))
    assert done.returncode == 0, done.stderr
    return moved


@pytest.mark.parametrize("name", NODES)
def test_a_node_could_start(moved: Moved, name: str) -> None:
    done = moved.run("sealgate", "node", "check", "--config", str(moved.config(f"{name}.toml")))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"right; node '{name}', 2 keys, 1 access rule" in done.stdout
    assert "warning" not in done.stdout


def test_the_proxy_could_start(moved: Moved) -> None:
    done = moved.run("sealgate", "proxy", "check", "--config", str(moved.config("proxy.toml")))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 sites with 2 keys" in done.stdout
    assert "3 nodes" in done.stdout


def test_nothing_of_the_vault_is_within_the_proxys_reach(moved: Moved) -> None:
    text = services()["proxy"]
    assert f'"proxy:{PROXY_VOLUME}:ro"' in text
    assert "nodes:" not in text
    found = {path.name for path in moved.folders[PROXY_VOLUME].rglob("*")}
    assert found == {"ca.pem", "proxy.pem", "proxy.key", "localhost-ecdsa.pem", "localhost-rsa.pem"}
    assert (moved.folders[PROXY_VOLUME] / "proxy.key").stat().st_mode & 0o777 == 0o600


def test_the_pki_is_made_again_without_harm(moved: Moved) -> None:
    before = (moved.folders[NODES_VOLUME] / "pki" / "ca.pem").read_bytes()
    done = moved.run("sealgate", "certs", "dev", "--dir", str(moved.folders[NODES_VOLUME] / "pki"), "--nodes", "3")
    assert done.returncode == 0, done.stderr
    assert (moved.folders[NODES_VOLUME] / "pki" / "ca.pem").read_bytes() == before


def test_addresses_of_services_fit_together() -> None:
    proxy = tomllib.loads((CONFIGS / "proxy.toml").read_text())
    prometheus = (ROOT / "config" / "prometheus.yml").read_text()
    health = re.search(r"SEALGATE_HEALTH_URL: http://127\.0\.0\.1:(\d+)/healthz", COMPOSE)
    assert health is not None
    for name in NODES:
        config = strict_toml.load(CONFIGS / f"{name}.toml", NodeConfig)
        ops_port = parse_address(config.ops.address)[1]
        assert ops_port == int(health[1])
        assert f'"{name}:{ops_port}"' in prometheus
        address = f"{name}:{parse_address(config.listen.address)[1]}"
        assert {"name": name, "address": address} in proxy["nodes"]
        assert f"command: [node, run, --config, {ETC}/{name}.toml]" in services()[name]
        assert "ports:" not in services()[name], "nodes are for the proxy only"
    control_port = parse_address(proxy["control"]["address"])[1]
    assert f'"proxy:{control_port}"' in prometheus
    assert f"SEALGATE_HEALTH_URL=http://127.0.0.1:{control_port}/healthz" in DOCKERFILE
    for server in proxy["upstreams"][0]["servers"]:
        assert parse_address(server)[0] in services()


def test_nobody_is_killed_while_draining() -> None:
    shared = COMPOSE[: COMPOSE.index("\nservices:\n")]
    grace = re.search(r"stop_grace_period: (\d+)s", shared[: shared.index("x-node:")])
    assert grace is not None, "without it containers are killed after 10 s"
    proxy = strict_toml.load(CONFIGS / "proxy.toml", ProxyConfig)
    nodes = [strict_toml.load(CONFIGS / f"{name}.toml", NodeConfig) for name in NODES]
    longest_s = max(proxy.process.drain_timeout_s, *(config.node.drain_timeout_s for config in nodes))
    assert int(grace[1]) >= longest_s + 5


def test_folders_belong_to_the_user_of_the_image() -> None:
    uid = re.search(r"useradd .*--uid (\d+) .*--home-dir (\S+) --create-home", DOCKERFILE)
    assert uid is not None
    assert uid[2] == NODES_VOLUME, "a new volume takes its owner from the image's folder"
    assert f"uid={uid[1]},gid={uid[1]},mode=0700" in COMPOSE
    owned = re.search(r"chown sealgate:sealgate ([^\n\\&]+)", DOCKERFILE)
    assert owned is not None
    assert {RUN, PROXY_VOLUME} <= set(owned[1].split())
    assert DOCKERFILE.index("USER sealgate") < DOCKERFILE.index("ENTRYPOINT")


def test_the_image_is_built_from_everything_the_wheel_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.removesuffix("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    wanted = packages | {"pyproject.toml", "requirements.lock", project["project"]["readme"]}
    wanted |= set(project["project"]["license-files"])
    copied = {
        word.rstrip("/") for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for word in line.split()
    }
    assert copied == wanted
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "**"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == wanted
    for module in project["tool"]["setuptools"]["ext-modules"]:
        for name in (*module["sources"], *module["depends"]):
            assert (ROOT / name).is_file()
            assert name.split("/")[0] in packages


def test_what_the_image_installs_is_locked() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {re.split(r"[<>=]", line)[0] for line in project["project"]["dependencies"]}
    assert wanted | {"setuptools"} <= locked, "and setuptools, because the wheel is built without isolation"
    assert "--require-hashes" in DOCKERFILE
