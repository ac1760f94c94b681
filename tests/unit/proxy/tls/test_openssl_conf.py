"""Merging with the user's OpenSSL configuration: which names are found, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.tls.openssl_conf import ConfError, UserConf, merged_conf, read_user_conf

MODULE = Path("/opt/sealgate/_provider.so")


def read(tmp_path: Path, text: str) -> UserConf:
    path = tmp_path / "openssl.cnf"
    path.write_text(text)
    return read_user_conf(path)


def test_without_a_user_file_only_our_sections_are_there() -> None:
    assert merged_conf(UserConf(), MODULE).splitlines() == [
        "openssl_conf = sealgate_init",
        "[sealgate_init]",
        "providers = sealgate_providers",
        "[sealgate_providers]",
        "default = sealgate_builtin",
        "sealgate = sealgate_provider",
        "[sealgate_builtin]",
        "activate = 1",
        "[sealgate_provider]",
        "module = /opt/sealgate/_provider.so",
        "activate = 1",
    ]


def test_sections_of_the_user_are_opened_again(tmp_path: Path) -> None:
    user = read(tmp_path, "openssl_conf = i\n[i]\nproviders = p\nssl_conf = s\n[p]\ndefault = d\nother = o\n[d]\n[o]\n")
    assert merged_conf(user, MODULE).splitlines() == [
        "openssl_conf = i",
        f".include {tmp_path}/openssl.cnf",
        "[i]",
        "providers = p",
        "[p]",
        "default = d",
        "sealgate = sealgate_provider",
        "[d]",
        "activate = 1",
        "[sealgate_provider]",
        "module = /opt/sealgate/_provider.so",
        "activate = 1",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "openssl_conf=i",
        "openssl_conf = wrong\nopenssl_conf = i",
        "  openssl_conf  =  i  # and a comment",
        'openssl_conf = "i"',
        "openssl_conf = \\\ni",
        "a = i\nopenssl_conf = $a",
        "a = i\nopenssl_conf = ${a}",
        "[x]\na = i\n[default]\nopenssl_conf = $x::a",
        "[x]\na = i\n[ default ]\nopenssl_conf = $(x::a)",
        "[x]\ndefault::openssl_conf = i",
        "# openssl_conf = no\n\nopenssl_conf = i\n.pragma = dollarid:off",
    ],
)
def test_a_name_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text + "\n").value("default", "openssl_conf") == "i"


def test_an_environment_variable_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECTION", "i")
    assert read(tmp_path, "openssl_conf = $ENV::SECTION\n").value("default", "openssl_conf") == "i"


def test_included_files_go_on_in_the_open_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.cnf").write_text("providers = p\n[p]\n")
    (tmp_path / "parts" / "b.conf").write_text("default = d\n")
    (tmp_path / "parts" / "c.txt").write_text("default = not read\n")
    monkeypatch.setenv("OPENSSL_CONF_INCLUDE", str(tmp_path))
    user = read(tmp_path, "openssl_conf = i\n[i]\n.include = parts\n")
    assert user.sections["i"] == {"providers": "p"}
    assert user.sections["p"] == {"default": "d"}


def test_files_that_include_each_other_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfError, match="remove the circle"):
        read(tmp_path, f".include {tmp_path}/openssl.cnf\n")


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfError, match=r"none\.cnf can't be read \(No such file or directory\)"):
        read_user_conf(tmp_path / "none.cnf")
    with pytest.raises(ConfError, match="can't be read"):
        read_user_conf(tmp_path)


def test_a_path_that_can_not_be_written_down_is_told() -> None:
    with pytest.raises(ConfError, match="control character"):
        merged_conf(UserConf(), Path("/opt/line\nbreak.so"))


@given(st.text(max_size=300))
def test_any_text_is_read(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.cnf"
    path.write_text(text.replace(".include", "include"), errors="surrogateescape")
    assert merged_conf(read_user_conf(path), MODULE)
