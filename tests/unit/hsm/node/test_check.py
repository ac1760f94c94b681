"""`sealgate node check`. Its own hardening is left out here: the test process must stay debuggable."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.node import check
from hsm.node.opening.opened import TokenProblem
from hsm.shared.strict_toml import ConfigError
from hsm.store.master_key import SharedSecret
from hsm.store.shares import deal
from hsm.store.store import Store
from tests.support.node import NodeHome, make_home
from tests.support.softhsm import find_module


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeHome:
    monkeypatch.setattr(check, "harden_process", lambda: None)
    return make_home(tmp_path)


def test_a_right_config_is_summed_up(home: NodeHome) -> None:
    path = home.write_config()
    assert check.check(path) == f"{path}: right; node 'node-1', 2 keys, 1 access rule"


def test_what_is_surely_not_meant_is_a_warning(home: NodeHome) -> None:
    rules = (
        '[[access]]\nclient = "CN=x"\nkeys = ["shop-*"]\n'
        '[[access]]\nclient = "CN=x"\nkeys = ["mail"]\nschemes = ["ed25519"]\n'
        '[[access]]\nclient = "CN=x"\nkeys = ["mail"]\npurposes = ["ca", "general"]\n'
    )
    found = check.check(home.write_config(extra=rules)).splitlines()
    assert found[1:] == [
        "warning: access[1]: its keys shop-* match no key there is now",
        "warning: access[2]: its schemes fit none of its keys",
        "warning: access[3]: its purposes ca, general fit none of its keys",
    ]


def test_a_config_without_access_is_warned_of(home: NodeHome) -> None:
    path = home.write_config()
    path.write_text(path.read_text().split("[[access]]")[0])
    assert "every request will be denied" in check.check(path)


def test_a_certificate_that_is_none_is_an_error(home: NodeHome) -> None:
    path = home.write_config()
    (home.path / "node.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"node\.pem"):
        check.check(path)


def test_a_vault_that_does_not_open_is_an_error(home: NodeHome) -> None:
    path = home.write_config()
    home.key_file.write_bytes(b"w" * 32)
    with pytest.raises(TokenProblem, match="can't open the vault"):
        check.check(path)


def test_a_sealed_vault_is_left_closed_and_named(home: NodeHome) -> None:
    made = deal(2, 3)
    sealed = '[[tokens]]\nname = "sealed"\ntype = "vault"\nstore = "sealed.db"\nshares = true\n'
    Store.create(home.path / "sealed.db", SharedSecret(made.secret, made.share_set)).close()
    path = home.write_config(tokens=home.vault_token() + sealed)
    name = made.share_set.name
    assert check.check(path).splitlines()[1:] == [
        f"warning: token 'sealed' is opened by 2 of 3 shares of set {name}, so its keys were not looked at"
    ]
    path = home.write_config(tokens=sealed.replace("sealed.db", "vault.db"))
    with pytest.raises(TokenProblem, match=r"vault\.db is not opened by shares but by a key-file"):
        check.check(path)


def test_a_token_that_is_away_is_named_with_the_reason(home: NodeHome) -> None:
    away = (
        f'[[tokens]]\nname = "hsm"\ntype = "pkcs11"\nuri = "pkcs11:token=web"\nmodule = "{find_module()}"\n'
        f'environment = {{ SOFTHSM2_CONF = "{home.path}/none.conf" }}\n'
    )
    path = home.write_config(tokens=home.vault_token() + away)
    (warning,) = check.check(path).splitlines()[1:]
    assert warning.startswith("warning: token 'hsm' is away (")
    assert "C_Initialize" in warning
    assert warning.endswith("): its keys were not looked at; a node starts without them and waits")
