"""Opening a backend from a config."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.backends.vault import VaultError, VaultReason
from hsm.node.config import NodeFiles, load_config
from hsm.node.factory import BackendProblem, open_backend
from hsm.node.refusals import RefusalReason
from hsm.wire.schemes import KeyType
from tests.support.node import NodeHome, make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> NodeHome:
    return make_home(tmp_path_factory.mktemp("factory"))


def test_a_vault_is_opened_with_its_admin(home: NodeHome) -> None:
    config = load_config(home.write_config())
    opened = open_backend(config.backend, NodeFiles.of(config, home.path))
    before = opened.backend.keys()
    assert {key.label for key in before} == {"www-p256", "mail"}
    opened.admin.generate(KeyType.ED25519, "made")
    assert opened.backend.refresh()
    assert len(opened.backend.keys()) == 3
    opened.close()
    assert opened.backend.keys() == ()


def test_the_wrong_key_is_one_clear_sentence(home: NodeHome, tmp_path: Path) -> None:
    config = load_config(home.write_config())
    wrong = tmp_path / "wrong.key"
    wrong.touch(mode=0o600)
    wrong.write_bytes(b"w" * 32)
    files = NodeFiles(home.path, home.path, home.path, home.store, None, wrong, home.path)
    with pytest.raises(BackendProblem, match=r"^can't open the vault: "):
        open_backend(config.backend, files)


def test_refusals_become_data(home: NodeHome) -> None:
    config = load_config(home.write_config())
    opened = open_backend(config.backend, NodeFiles.of(config, home.path))
    for reason, expected in (
        (VaultReason.NOT_FOUND, RefusalReason.NOT_FOUND),
        (VaultReason.EXISTS, RefusalReason.CONFLICT),
        (VaultReason.INVALID, RefusalReason.INVALID),
        (VaultReason.UNAVAILABLE, RefusalReason.UNAVAILABLE),
    ):
        refusal = opened.refusal_of(VaultError(reason, "because"))
        assert refusal is not None
        assert (refusal.reason, refusal.sentence) == (expected, "because")
    assert opened.refusal_of(RuntimeError()) is None
    opened.close()
