from __future__ import annotations

import stat
from pathlib import Path

import pytest

from certs.authority import PkiError
from certs.site_keys import Pkcs11Place, VaultPlace, vault_keys
from hsm.backends.attributes import KeyAttributes
from hsm.node.config import NodeConfig
from hsm.node.token_config import Pkcs11TokenConfig, SimulatedTokenConfig, VaultTokenConfig
from hsm.shared import strict_toml
from hsm.wire.schemes import KeyType

NODE = (
    '[node]\nname = "n"\n[listen]\naddress = "127.0.0.1:0"\n[tls]\nca = "a"\ncertificate = "b"\nprivate_key = "c"\n'
    '[[access]]\nclient = "x"\nkeys = ["*"]\n[ops]\naddress = "127.0.0.1:0"\n[management]\nsocket = "s"\n'
)
AWKWARD = Path('/tmp/a "b" \\ ü')


def token_of(path: Path, section: str) -> object:
    """What a node reads from a config with this section."""
    path.write_text(NODE + section)
    (token,) = strict_toml.load(path, NodeConfig).tokens
    return token


def test_a_vault_is_made_once_and_kept(tmp_path: Path) -> None:
    with vault_keys(tmp_path) as keys:
        assert keys.was_made
        made = keys.admin.generate(KeyType.P384, "a", KeyAttributes())
    with vault_keys(tmp_path) as again:
        assert not again.was_made
        assert (again.place, again.name) == (keys.place, "vault/store.db")
        assert [(record.ski, record.label) for record in again.admin.list()] == [(made.ski, "a")]
    for path in (tmp_path / "vault").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_what_the_vault_refuses_is_a_sentence(tmp_path: Path) -> None:
    with vault_keys(tmp_path) as keys:
        keys.admin.generate(KeyType.P256, "a", KeyAttributes())
    with pytest.raises(PkiError, match="labelled 'a' exists already"), vault_keys(tmp_path) as keys:
        keys.admin.generate(KeyType.P256, "a", KeyAttributes())
    (tmp_path / "vault" / "master.key").write_bytes(b"\0" * 32)
    with pytest.raises(PkiError, match="key"), vault_keys(tmp_path):
        pass


def test_nodes_understand_where_a_vault_is(tmp_path: Path) -> None:
    place = VaultPlace(AWKWARD / "store.db", AWKWARD / "master.key")
    token = token_of(tmp_path / "n.toml", place.toml(more="queue = 7\n"))
    assert token == VaultTokenConfig(name="site-keys", store=str(place.store), key_file=str(place.key_file), queue=7)
    token = token_of(tmp_path / "n.toml", place.toml("simulated", "i_know_this_is_not_an_hsm = true\n"))
    assert isinstance(token, SimulatedTokenConfig)
    assert (token.store, token.i_know_this_is_not_an_hsm) == (str(place.store), True)


def test_nodes_understand_where_a_pkcs11_token_is(tmp_path: Path) -> None:
    place = Pkcs11Place(
        AWKWARD / "lib.so", "sealgate-dev", AWKWARD / "pin", AWKWARD / "book", (("SOFTHSM2_CONF", str(AWKWARD / "c")),)
    )
    token = token_of(tmp_path / "n.toml", place.toml("concurrency = 3\n"))
    assert token == Pkcs11TokenConfig(
        name="site-keys",
        uri="pkcs11:token=sealgate-dev",
        module=str(place.module),
        pin_file=str(place.pin_file),
        book=str(place.book),
        environment={"SOFTHSM2_CONF": str(AWKWARD / "c")},
        concurrency=3,
    )
