from __future__ import annotations

from pathlib import Path

import pytest

from proxy.run.prepare import StartError, prepare, signing_context
from tests.support import pki
from tests.support.fake_node import LinkPki
from tests.support.proxy_toml import toml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LinkPki.make(tmp_path)
    pki.write_chain(tmp_path / "a.pem", pki.issue(pki.make_ca(), "a.test"))
    (tmp_path / "proxy.toml").write_text(toml(nodes='name = "n"\naddress = "10.0.0.1:1"'))
    return tmp_path


def test_everything_is_built_and_oddities_are_kept(folder: Path) -> None:
    prepared = prepare(folder / "proxy.toml")
    assert len(prepared.contexts.site_keys) == 1
    assert prepared.config.sites[0].names == ("a.test",)
    assert [warning for warning in prepared.warnings if warning.startswith("nodes:")]
    signing_context(prepared.config.signing)


def test_all_that_is_wrong_with_files_is_said_at_once(folder: Path) -> None:
    (folder / "a.pem").unlink()
    (folder / "ca.pem").unlink()
    (folder / "proxy.key").unlink()
    with pytest.raises(StartError) as caught:
        prepare(folder / "proxy.toml")
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    assert f"{folder / 'proxy.toml'}: signing.ca: {folder / 'ca.pem'}: no such file" in text
    assert "signing.private_key" in text
    assert "a.pem" in text


def test_an_identity_that_does_not_fit_is_named(folder: Path) -> None:
    (folder / "proxy.key").write_bytes(pki.issue(pki.make_ca(), "other").key_pem)
    with pytest.raises(StartError, match=r"proxy\.(key|pem)"):
        prepare(folder / "proxy.toml")


def test_a_bad_config_comes_before_its_files(folder: Path) -> None:
    (folder / "proxy.toml").write_text(toml(tls="groups = []"))
    with pytest.raises(StartError, match=r"proxy\.toml:\d+: tls\.groups: is empty"):
        prepare(folder / "proxy.toml")


def test_a_control_socket_needs_a_place(folder: Path) -> None:
    config = folder / "proxy.toml"
    good = config.read_text()
    config.write_text(good + '[control]\nsocket = "control.sock"\n')
    if len(str(folder)) < 90:
        prepare(config)
    config.write_text(good + '[control]\nsocket = "/nowhere/control.sock"\n')
    with pytest.raises(StartError, match=r"proxy\.toml: control\.socket: /nowhere: no such folder; create it"):
        prepare(config)
    config.write_text(good + f'[control]\nsocket = "/tmp/{"x" * 120}"\n')
    with pytest.raises(StartError, match=r"control\.socket: .*: is longer than 107 bytes; choose a shorter path"):
        prepare(config)
