"""A vault opened by a key that stays in a real SoftHSM2 token."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from hsm.backends.pkcs11.blocking_worker import BlockingWorker
from hsm.backends.pkcs11.messages import Signed
from hsm.backends.vault import VaultError, VaultReason
from hsm.backends.vault.wrapping_key import token_key
from hsm.store.errors import StoreError
from hsm.store.store import Put, Store
from tests.support.softhsm import SoftToken


@pytest.fixture
def token(tmp_path: Path) -> SoftToken:
    folder = tmp_path / "token"
    folder.mkdir(mode=0o700)
    made = SoftToken(folder).init()
    made.pin_file()
    return made


def uri(soft: SoftToken, key: str = "vault-key", **changes: str) -> str:
    parts = {"token": soft.label, "module": soft.module, "pin": f"file:{soft.folder}/pin", **changes}
    return f"pkcs11:token={parts['token']};object={key}?module-path={parts['module']}&pin-source={parts['pin']}"


def test_a_vault_opens_by_the_tokens_key_and_by_no_other(token: SoftToken, tmp_path: Path) -> None:
    path = tmp_path / "vault.db"
    with pytest.raises(VaultError, match='no secret key with the label "vault-key"') as caught:
        Store.create(path, token_key(uri(token), token.environment))
    assert caught.value.reason is VaultReason.UNAVAILABLE
    assert not path.exists()
    store = Store.create(path, token_key(uri(token), token.environment, make=True))
    store.write([Put("keys/a", b"value", 0)])
    store.close()
    opened = Store.open(path, token_key(uri(token), token.environment))
    assert opened.get("keys/a").value == b"value"
    opened.close()
    with pytest.raises(StoreError, match=r"wrapping key is not the one that this store was made with \(vault-key\)"):
        Store.open(path, token_key(uri(token, "other-key"), token.environment, make=True))


def test_the_key_is_made_once_and_can_not_be_read_out(token: SoftToken) -> None:
    one = token_key(uri(token), token.environment, make=True)
    first, again = one.mac(b"question"), token_key(uri(token), token.environment).mac(b"question")
    assert first == again
    assert len(first) == 32
    assert first != one.mac(b"other question")
    assert first != hmac.digest(b"", b"question", "sha256")
    assert one.name == "vault-key"
    shown = "".join(path.read_text(errors="replace") for path in token.folder.rglob("*.object"))
    assert first.hex() not in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"token": "other"}, "the wrapping key 'vault-key' can't be used: the library shows no token that fits"),
        ({"pin": "file:/none/pin"}, "/none/pin does not exist"),
        ({"module": "/etc/passwd"}, "the wrapping key 'vault-key' can't be used: .*/etc/passwd"),
    ],
)
def test_a_token_that_can_not_be_asked_is_one_sentence(token: SoftToken, changes: dict[str, str], words: str) -> None:
    with pytest.raises(VaultError, match=words) as caught:
        token_key(uri(token, **changes), token.environment).mac(b"x")
    assert token.pin not in str(caught.value)


def test_a_wrong_pin_is_tried_once(token: SoftToken) -> None:
    (token.folder / "pin").write_text("11111111\n")
    with pytest.raises(VaultError, match="PIN") as caught:
        token_key(uri(token), token.environment, make=True).mac(b"x")
    assert "11111111" not in str(caught.value)


def test_an_answer_that_is_no_mac_is_refused(token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockingWorker, "ask", lambda *_given: Signed(id=1, signature=b"short"))
    with pytest.raises(VaultError, match="gave no HMAC-SHA-256"):
        token_key(uri(token), token.environment).mac(b"x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pkcs11:token=t?module-path={module}", "add `object=LABEL`"),
        ("pkcs11:object=k", "add `\\?module-path="),
        ("pkcs11:object=k;id=%01?module-path={module}", "leave `id` out"),
        ("pkcs11:object=k?module-path=/none.so", "does not exist; install it"),
        ("pkcs11:object=k?module-path={module}&pin-source=|cat", "runs none"),
        ("pkcs11:object=k?pin-value=1234", "must not stand in a URI"),
        ("http://x", "begins with `pkcs11:`"),
    ],
)
def test_a_uri_must_name_library_and_key(text: str, words: str, token: SoftToken) -> None:
    with pytest.raises(VaultError, match=words) as caught:
        token_key(text.format(module=token.module), {})
    assert caught.value.reason is VaultReason.INVALID
    assert "1234" not in str(caught.value)
