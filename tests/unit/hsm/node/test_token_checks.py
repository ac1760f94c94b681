"""What can be wrong with `[[tokens]]`, each with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsm.node.config import load_config
from hsm.shared.strict_toml import ConfigError
from tests.support.node import NodeHome, make_home

PKCS11 = '[[tokens]]\nname = "hsm"\ntype = "pkcs11"\nuri = "pkcs11:token=t"\nmodule = "ca.pem"\n'
SIMULATED = (
    '[[tokens]]\nname = "sim"\ntype = "simulated"\nstore = "vault.db"\nkey_file = "master.key"\n'
    "i_know_this_is_not_an_hsm = true\n"
)
PIN = 'pin_file = "master.key"\n'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("tokens"))


def problems(home: NodeHome, tokens: str) -> str:
    """What is said of a config with these tokens after the vault; the `[[tokens]]` line of the first is 23."""
    with pytest.raises(ConfigError) as caught:
        load_config(home.write_config("wrong", extra=tokens))
    return str(caught.value)


def test_several_tokens_of_all_kinds_are_right(home: NodeHome) -> None:
    config = load_config(home.write_config("right", extra=PKCS11 + PIN + SIMULATED))
    assert [token.name for token in config.tokens] == ["vault", "hsm", "sim"]
    assert config.tokens[1].concurrency == 30


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (PKCS11.replace('"hsm"', '"vault"'), r"tokens\[1\]\.name: another token is named 'vault'; choose"),
        (PKCS11.replace("pkcs11:token=t", "http://what"), r"tokens\[1\]\.uri: "),
        (PKCS11.replace("pkcs11:token=t", "pkcs11:token=t?pin-value=1234"), r"tokens\[1\]\.uri: "),
        (PKCS11.replace('module = "ca.pem"\n', ""), r"tokens\[1\]: no library is named; set module"),
        (PKCS11.replace('"ca.pem"', '"gone.so"'), r"tokens\[1\]\.module: .*gone\.so does not exist"),
        (PKCS11 + PIN + 'pin_env = "PIN"\n', r"tokens\[1\]: set only one of pin_file, pin_credential"),
        (PKCS11 + 'pin_env = "P"\npin_prompt = true\n', r"tokens\[1\]: set only one of pin_file, pin_credential"),
        (PKCS11.replace("token=t", "token=t?pin-source=file:/etc/pin") + PIN, r"tokens\[1\]: the uri has a pin-source"),
        (PKCS11 + 'pin_file = "ca.pem"\n', r"tokens\[1\]\.pin_file: others may read .* run `chmod 600"),
        (PKCS11 + 'pin_file = "none"\n', r"tokens\[1\]\.pin_file: .*none does not exist"),
        (PKCS11 + PIN + "retry_min_s = 20\n", r"tokens\[1\]\.retry_min_s: is longer than retry_max_s"),
        (PKCS11 + "loop_queue = 4\n", r"tokens\[1\]\.loop_queue: unknown key"),
        (PKCS11 + 'pin = "1234"\n', r"tokens\[1\]\.pin: a PIN does not stand in a config"),
        (SIMULATED.replace("true", "false"), r"tokens\[1\]: a simulated token is no HSM.* set i_know_this_is_not"),
        (SIMULATED.replace('key_file = "master.key"\n', ""), r"tokens\[1\]: set exactly one of passphrase_file"),
        (SIMULATED + "latency_ms = 5\nlatency_p99_ms = 4\n", r"tokens\[1\]\.latency_p99_ms: is less than latency_ms"),
        (SIMULATED + 'wrapping_key = "pkcs11:token=t"\n', r"tokens\[1\]: set exactly one of passphrase_file"),
        (SIMULATED + 'wrapping_key = "pkcs11:token=t"\n', r"tokens\[1\]\.wrapping_key: .*add \?module-path="),
        (
            SIMULATED + 'wrapping_key = "pkcs11:token=t?module-path=/x"\n',
            r"tokens\[1\]\.wrapping_key: .*add object=LABEL",
        ),
        (SIMULATED + 'environment = { A = "b" }\n', r"tokens\[1\]\.environment: is for the library of a wrapping_key"),
        (SIMULATED + 'wrapping_key = "password"\n', r"tokens\[1\]\.wrapping_key: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(home: NodeHome, tokens: str, message: str) -> None:
    found = problems(home, tokens)
    assert re.search(r"wrong\.toml:\d+: " + message, found), found


def test_an_old_config_is_told_how_it_is_written_now(home: NodeHome, tmp_path: Path) -> None:
    text = home.write_config("right").read_text()
    old = text.replace('[[tokens]]\nname = "vault"\ntype', "[backend]\ntype").replace(
        "[ops]", "[admission]\nconcurrency = 2\nqueue = 9\ncheap_queue = 9\n[ops]"
    )
    path = tmp_path / "old.toml"
    path.write_text(old)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{path}:11: backend: a node has several tokens now; write [[tokens]] instead")
    assert [line.rpartition("; ")[2] for line in lines[1:]] == [
        f"write {field} under [[tokens]]" for field in ("concurrency", "queue", "loop_queue")
    ]


def test_a_config_without_tokens_is_refused(home: NodeHome, tmp_path: Path) -> None:
    text = home.write_config("right").read_text()
    path = tmp_path / "none.toml"
    path.write_text(text[: text.index("[[tokens]]")] + text[text.index("[ops]") :])
    with pytest.raises(ConfigError, match="'tokens' is missing"):
        load_config(path)
