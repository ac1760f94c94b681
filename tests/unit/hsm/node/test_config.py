"""The node's config and every way to get it wrong."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from hsm.node.config import NodeConfig, NodeFiles, load_config
from hsm.shared import strict_toml
from hsm.shared.strict_toml import ConfigError
from tests.support.node import PROXY, NodeHome, make_home

SAMPLE = Path(__file__).parents[4] / "config" / "node.toml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("config"))


@pytest.fixture
def text(home: NodeHome) -> str:
    return home.write_config("right").read_text()


def problems(home: NodeHome, text: str) -> str:
    path = home.path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


def test_a_right_config_is_loaded_with_defaults(home: NodeHome, text: str) -> None:
    config = load_config(home.write_config("right"))
    assert config.node.name == "right"
    assert config.node.drain_timeout_s == 10.0
    assert config.rules[0].client == PROXY
    assert config.rules[0].schemes == ("*",)
    files = NodeFiles.of(config, home.path)
    assert files.socket == home.path / "right.sock"


def test_the_sample_says_what_the_defaults_are() -> None:
    config = strict_toml.load(SAMPLE, NodeConfig)
    least = strict_toml.parse(
        '[node]\nname = "node-1"\n[listen]\naddress = "127.0.0.1:2407"\n'
        '[tls]\nca = "certs/ca.pem"\ncertificate = "certs/node-1.pem"\nprivate_key = "certs/node-1.key"\n'
        '[[tokens]]\nname = "vault"\ntype = "vault"\nstore = "vault.db"\nkey_file = "vault.key"\n'
        '[management]\nsocket = "node-1.sock"\n'
        '[[access]]\nclient = "sealgate://proxy/dev"\nkeys = ["*"]\n',
        NodeConfig,
        "least",
    )
    assert config == least


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "right"', 'name = "a b"', r":2: node\.name: .*match"),
        ('name = "right"', 'nam = "right"', r"node\.nam: unknown key; did you mean 'name'"),
        ('address = "127.0.0.1:0"', "address = 5", r"listen\.address: expected str"),
        ('address = "127.0.0.1:0"', 'address = "127.0.0.1"', r":5: listen\.address: .* is not an address"),
        ('address = "127.0.0.1:0"', 'address = "h:99999"', r"listen\.address: port 99999 .* is too large"),
        ('[ops]\naddress = "127.0.0.1:0"', '[ops]\naddress = "h"', r"ops\.address: 'h' is not an address"),
        ('ca = "ca.pem"', 'ca = "gone.pem"', r"tls\.ca: .*gone\.pem does not exist; correct the path"),
        ('ca = "ca.pem"', 'ca = "."', r"tls\.ca: .* is not a file"),
        ('ca = "ca.pem"', 'ca = ""', r"tls\.ca: expected str of length >= 1"),
        ('private_key = "node.key"', 'private_key = "ca.pem"', r"tls\.private_key: others may read .*chmod 600"),
        ('store = "vault.db"', 'store = "no.db"', r"tokens\[0\]\.store: .* or run `sealgate vault init`"),
        ('key_file = "master.key"', "", r"tokens\[0\]: set exactly one of passphrase_file, key_file, sh"),
        ('key_file = "master.key"', 'key_file = "ca.pem"', r"tokens\[0\]\.key_file: others may read"),
        ('key_file = "master.key"', 'key_file = "master.key"\npassphrase_file = "ca.pem"', r"set exactly one of"),
        ('type = "vault"', 'type = "yubi"', r"tokens\[0\]\.type: 'yubi' is none of vault, pkcs11, simulated"),
        ('type = "vault"', "", r"tokens\[0\]: 'type' is missing; add it"),
        ('store = "vault.db"', 'stoer = "vault.db"', r":14: tokens\[0\]\.stoer: unknown key; did you mean 'store'"),
        (
            'store = "vault.db"',
            'store = "vault.db"\nshares = true',
            r"set exactly one of passphrase_file, key_file, sh",
        ),
        (f'client = "{PROXY}"', 'client = ""', r"access\[0\]\.client: expected str of length >= 1"),
        ('keys = ["www-*"]', "keys = []", r"access\[0\]\.keys: expected array of length >= 1"),
        ('keys = ["www-*"]', 'keys = ["ski:12"]', r"access\[0\]\.keys: 'ski:12' is no SKI"),
        (
            'keys = ["www-*"]',
            'keys = ["*"]\nschemes = ["rsa"]',
            r"access\[0\]\.schemes: 'rsa' is no scheme; choose",
        ),
        (
            'keys = ["www-*"]',
            'keys = ["*"]\npurposes = ["web"]',
            r"access\[0\]\.purposes: 'web' is no purpose of a key",
        ),
        ("digests = true", "digests = 1", r"access\[0\]\.digests: expected bool"),
        ("digests = true", "max_rate = 0", r"access\[0\]\.max_rate: expected float > 0"),
        ('keys = ["www-*"]', 'keys = ["*"]\nschemes = []', r"access\[0\]\.schemes: is empty"),
        (
            'store = "vault.db"',
            'store = "vault.db"\nconcurrency = 1000',
            r"tokens\[0\]\.concurrency: expected int <= 256",
        ),
        ('store = "vault.db"', 'store = "vault.db"\nqueue = -1', r"tokens\[0\]\.queue: expected int >= 0"),
        (
            "[ops]",
            "[admission]\ndefault_deadline_s = 50\n[ops]",
            r"admission\.default_deadline_s: is longer than max_deadline_s",
        ),
        ('socket = "right.sock"', 'socket = "no/folder/s"', r"management\.socket: the folder .* does not exist"),
        ('socket = "right.sock"', f'socket = "{"s" * 120}"', r"management\.socket: .* longer than 107 bytes"),
        ('ca = "ca.pem"', f'ca = "{"a" * 300}"', r"tls\.ca: .* can't be looked at: File name too long"),
        ('ca = "ca.pem"', 'ca = "~nobody-at-all/ca.pem"', r"tls\.ca: .*~nobody-at-all/ca\.pem does not exist"),
        ('ca = "ca.pem"', 'ca = "a\\u0000b"', r"tls\.ca: .* does not exist"),
        ('socket = "right.sock"', 'socket = "a\\u0000b"', r"management\.socket: holds a NUL byte"),
        ('address = "127.0.0.1:0"', 'address = "0.0.0..0:1"', r"listen\.address: '0\.0\.0\.\.0' in .* is no host"),
        ("[node]", "[node", r":1: column \d+: not valid TOML"),
        ('type = "vault"', 'type = "vault"\npassphrase = "geheim"', r"a passphrase does not stand in a config; put it"),
        (
            'type = "vault"',
            'type = "pkcs11"\npin = "geheim"',
            r":14: tokens\[0\]\.pin: a PIN does not stand in",
        ),
        ('type = "vault"', 'type = "pkcs11"\npin_env = "12 geheim"', r"tokens\[0\]\.pin_env: expected str matching"),
        ("[tls]", "[tsl]", r"tsl: unknown key; did you mean 'tls'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(home: NodeHome, text: str, old: str, new: str, message: str) -> None:
    assert old in text
    found = problems(home, text.replace(old, new, 1))
    assert re.search(message, found), found
    assert "geheim" not in found, "what may be a secret is not shown"


@pytest.mark.parametrize("mode", [0o1777, 0o770])
def test_a_socket_where_others_could_listen_first_is_refused(home: NodeHome, text: str, mode: int) -> None:
    folder = home.path / f"shared-{mode:o}"
    folder.mkdir()
    folder.chmod(mode)
    found = problems(home, text.replace('"right.sock"', f'"{folder}/node.sock"'))
    assert re.search(r"management\.socket: others may write to the folder .*shared-", found)


def test_all_problems_are_said_at_once(home: NodeHome, text: str) -> None:
    wrong = text.replace("ca.pem", "no-ca.pem").replace("vault.db", "no.db").replace("www-*", "ski:")
    assert len(problems(home, wrong).splitlines()) == 3


def test_one_port_for_two_listeners_is_refused(home: NodeHome, text: str) -> None:
    assert "give each its own port" in problems(home, text.replace("127.0.0.1:0", "127.0.0.1:2407"))


def test_a_missing_config_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_a_folder_that_may_not_be_entered_is_a_clear_error(
    home: NodeHome, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def closed(path: Any, *arguments: Any, **more: Any) -> os.stat_result:
        if "locked" in str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *arguments, **more)

    # As the kernel answers users other than root, as whom tests may run.
    monkeypatch.setattr(os, "stat", closed)
    found = problems(home, text.replace('"master.key"', '"locked/key"').replace('"right.sock"', '"locked/in/socket"'))
    assert "tokens[0].key_file" in found
    assert "locked/key can't be looked at: Permission denied" in found
    assert "locked/in does not exist, or this user may not see it" in found
