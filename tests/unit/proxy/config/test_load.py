from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsm.shared.strict_toml import ConfigError
from proxy.base.policy import DiscoverySource, RoutingPolicy, SigningPolicy
from proxy.config.load import load_config, missing_files
from proxy.config.schema import ProxyConfig
from tests.support.proxy_toml import GOOD, toml

SAMPLE = Path(__file__).parents[4] / "config" / "proxy.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "proxy.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = 'names = ["a.test"]\ncertificates = ["sub/a.pem", "/abs/b.pem"]\nupstream = "web"'
    write(tmp_path, toml(sites=sites))
    monkeypatch.chdir(tmp_path.parent)
    config = load_config(Path(tmp_path.name) / "proxy.toml")
    assert config.sites[0].certificates == (str(tmp_path / "sub/a.pem"), "/abs/b.pem")
    assert config.signing.private_key == str(tmp_path / "proxy.key")


def test_the_sample_loads_and_shows_the_defaults() -> None:
    config = load_config(SAMPLE)
    assert config.process == ProxyConfig.__struct_defaults__[0]
    assert config.control == ProxyConfig.__struct_defaults__[1]
    assert config.tls == ProxyConfig.__struct_defaults__[2]
    assert config.http == ProxyConfig.__struct_defaults__[3]
    assert config.routing == RoutingPolicy()
    assert config.sites[0].default
    for field, default in zip(SigningPolicy.__struct_fields__[3:], SigningPolicy.__struct_defaults__, strict=True):
        assert getattr(config.signing, field) == default, field
    node = config.nodes[0]
    assert (node.zone, node.weight, node.state, node.capacity_per_s) == ("", 1.0, "enabled", 0.0)


def test_the_sample_names_every_field_that_people_set() -> None:
    text = SAMPLE.read_text()
    config = load_config(SAMPLE)
    sections = [config.process, config.control, config.http, config.signing, config.routing]
    sections += [config.listeners[0], config.sites[0], config.upstreams[0], config.nodes[0]]
    for section in sections:
        for field in section.__struct_fields__:
            assert f"{field} = " in text, f"{type(section).__name__}.{field}"


def test_what_the_sample_says_of_discovery_is_right_too(tmp_path: Path) -> None:
    """It is commented out, because a name that is not there would only make noise."""
    lines = SAMPLE.read_text().splitlines()
    begin = lines.index("# [[discovery]]")
    end = begin + lines[begin:].index("")
    shown = [line.removeprefix("# ") for line in lines[begin:end]]
    path = write(tmp_path, "\n".join([*lines[:begin], *shown, *lines[end:]]))
    (source,) = load_config(path).discovery
    assert source == DiscoverySource(name="hsm", record="hsm.sealgate.internal", port=2407)
    assert [line.split(" = ")[0] for line in shown[1:]] == list(DiscoverySource.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (toml(tls="ticket = 2"), "tls.ticket: unknown key; did you mean 'tickets'?"),
        (toml(tls='tickets = "yes"'), "tls.tickets: "),
        (toml(tls="tickets = 2"), "tls.tickets: "),
        (toml(process="workers = -1"), "process.workers: "),
        (toml(sites='names = []\ncertificates = ["a"]\nupstream = "web"'), "sites[0].names: "),
        (toml(listeners='address = "8443"'), "listeners[0].address: "),
        ("[[sites]", "not valid TOML"),
        ("", "'listeners' is missing"),
    ],
)
def test_what_the_schema_refuses_is_named_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml: can't be read: No such file"):
        load_config(tmp_path / "no.toml")


def test_missing_identity_files_are_named_each(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    (tmp_path / "ca.pem").mkdir()
    (tmp_path / "proxy.pem").write_text("x")
    config = load_config(path)
    assert missing_files(config) == [
        f"signing.ca: {tmp_path / 'ca.pem'}: is not a file; correct the path",
        f"signing.private_key: {tmp_path / 'proxy.key'}: no such file; create it or correct the path",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    for name in ("ca.pem", "proxy.pem", "proxy.key"):
        (tmp_path / name).write_text("x")
    (tmp_path / "proxy.key").chmod(0)
    assert missing_files(load_config(path)) == [
        f"signing.private_key: {tmp_path / 'proxy.key'}: permission denied; let this user read it"
    ]
