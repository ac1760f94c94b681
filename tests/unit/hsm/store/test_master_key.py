from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsm.shared.logs import Secret
from hsm.store import files
from hsm.store.errors import StoreError, StoreReason
from hsm.store.master_key import (
    Argon2Cost,
    KeyFile,
    Passphrase,
    SharedSecret,
    TokenKey,
    Unlock,
    WrappedKey,
    create_key_file,
    forget,
    key_file,
    passphrase,
    passphrase_from_file,
    unwrap,
    wrap,
)
from hsm.store.shares import combine, deal

CHEAP = Argon2Cost(memory_kib=64, passes=1, lanes=1)
MASTER = Secret(b"m" * 32)
CLUSTER = b"c" * 16


def cheap(text: bytes) -> Passphrase:
    return Passphrase(Secret(text), CHEAP)


def test_the_default_cost_is_that_of_rfc_9106() -> None:
    assert passphrase(b"x").cost == Argon2Cost(memory_kib=64 * 1024, passes=3, lanes=4)
    Argon2Cost().check()


def test_a_passphrase_opens_what_it_wrapped_and_no_other_does() -> None:
    wrapped = wrap(MASTER, cheap(b"correct horse"), CLUSTER)
    assert unwrap(wrapped, cheap(b"correct horse"), CLUSTER).reveal() == MASTER.reveal()
    with pytest.raises(StoreError, match="the passphrase is wrong") as caught:
        unwrap(wrapped, cheap(b"wrong horse"), CLUSTER)
    assert caught.value.reason is StoreReason.WRONG_KEY


def test_the_cost_is_read_from_the_store_not_from_the_caller() -> None:
    wrapped = wrap(MASTER, cheap(b"x"), CLUSTER)
    assert unwrap(wrapped, Passphrase(Secret(b"x"), Argon2Cost(128, 2, 1)), CLUSTER).reveal() == MASTER.reveal()


def test_a_key_file_opens_what_it_wrapped_and_no_other_does() -> None:
    wrapped = wrap(MASTER, KeyFile(Secret(b"a" * 32)), CLUSTER)
    assert unwrap(wrapped, KeyFile(Secret(b"a" * 32)), CLUSTER).reveal() == MASTER.reveal()
    with pytest.raises(StoreError, match="the key file is not this store's"):
        unwrap(wrapped, KeyFile(Secret(b"b" * 32)), CLUSTER)
    with pytest.raises(StoreError, match="is opened by a key-file, and a passphrase was given"):
        unwrap(wrapped, cheap(b"x"), CLUSTER)


@pytest.mark.parametrize(
    "change",
    [
        {"salt": b"s" * 16},
        {"nonce": b"n" * 12},
        {"nonce": b""},
        {"wrapped": b"w" * 48},
        {"wrapped": b""},
        {"passes": 2},
        {"memory_kib": 128},
        {"unlock": "something"},
    ],
)
def test_every_altered_header_field_is_refused(change: dict[str, Any]) -> None:
    wrapped = msgspec.structs.replace(wrap(MASTER, cheap(b"x"), CLUSTER), **change)
    with pytest.raises(StoreError, match="or the store's header was altered"):
        unwrap(wrapped, cheap(b"x"), CLUSTER)


def test_a_header_of_another_cluster_is_refused() -> None:
    with pytest.raises(StoreError):
        unwrap(wrap(MASTER, cheap(b"x"), CLUSTER), cheap(b"x"), b"d" * 16)


@pytest.mark.parametrize(
    ("memory", "passes", "lanes"), [(2**31, 1, 1), (64, 10**9, 1), (64, 1, 99), (7, 1, 1), (0, 0, 0)]
)
def test_a_header_can_not_exhaust_the_machine(memory: int, passes: int, lanes: int) -> None:
    wrapped = wrap(MASTER, cheap(b"x"), CLUSTER)
    hostile = msgspec.structs.replace(wrapped, memory_kib=memory, passes=passes, lanes=lanes)
    with pytest.raises(StoreError, match="parameters are out of bounds") as caught:
        unwrap(hostile, cheap(b"x"), CLUSTER)
    assert caught.value.reason is StoreReason.TAMPERED


def test_headers_hold_no_secret_and_wrapping_is_never_the_same_twice() -> None:
    one, two = (wrap(MASTER, cheap(b"hunter2"), CLUSTER) for _ in range(2))
    assert one.salt != two.salt
    assert one.nonce != two.nonce
    assert one.wrapped != two.wrapped
    assert b"hunter2" not in msgspec.msgpack.encode(one)
    assert MASTER.reveal() not in msgspec.msgpack.encode(one)
    assert msgspec.json.decode(msgspec.json.encode(one), type=WrappedKey) == one


def test_passphrases_come_from_the_first_line_of_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "pass"
    files.create_private(path, b"one two\r\nsecond line\n")
    assert passphrase_from_file(path).text.reveal() == b"one two"
    path.write_bytes(b"  \n")
    with pytest.raises(StoreError, match="pass: the passphrase is empty"):
        passphrase_from_file(path)
    path.write_bytes(b"x" * 1025)
    with pytest.raises(StoreError, match="longer than 1024 bytes"):
        passphrase_from_file(path)
    path.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        passphrase_from_file(path)


def test_key_files_are_32_random_private_bytes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = create_key_file(path)
    assert key_file(path).key.reveal() == made.key.reveal() == path.read_bytes()
    assert len(path.read_bytes()) == 32
    assert made.key.reveal() not in (bytes(32), create_key_file(tmp_path / "other").key.reveal())
    with pytest.raises(StoreError, match="never overwritten"):
        create_key_file(path)
    path.write_bytes(b"short")
    with pytest.raises(StoreError, match="has 5 bytes; a key file has 32"):
        key_file(path)
    path.chmod(0o440)
    with pytest.raises(StoreError, match="accessible by group or others"):
        key_file(path)


def test_unlocks_do_not_show_their_secret() -> None:
    assert "hunter2" not in repr(cheap(b"hunter2"))
    assert "hunter2" not in repr(KeyFile(Secret(b"hunter2" * 5)))


@pytest.mark.parametrize(
    ("header", "unlock"),
    [
        (
            b'{"unlock":"passphrase","memory_kib":64,"passes":1,"lanes":1,"salt":"BwcHBwcHBwcHBwcHBwcHBw==",'
            b'"nonce":"BwcHBwcHBwcHBwcH",'
            b'"wrapped":"dWMhI7CSsw60qIA/i/1cNYn/OeVbVbsQ/6Cu5gKmdLb0GnnUBqCY8sCT7gTp0Je/"}',
            cheap(b"correct horse"),
        ),
        (
            b'{"unlock":"key-file","memory_kib":0,"passes":0,"lanes":0,"salt":"BwcHBwcHBwcHBwcHBwcHBw==",'
            b'"nonce":"BwcHBwcHBwcHBwcH",'
            b'"wrapped":"fkhZC/fbgIej+0WsgXdE1y9xLKldUTlYOBaQ1TTCTOx5rfXrAeF4PVVgbGEfxAbU"}',
            KeyFile(Secret(bytes(32))),
        ),
    ],
)
def test_master_keys_that_the_first_format_wrapped_still_open(header: bytes, unlock: Passphrase | KeyFile) -> None:
    wrapped = msgspec.json.decode(header, type=WrappedKey)
    assert unwrap(wrapped, unlock, bytes(range(16))).reveal() == bytes(range(32))


def token_key(key: bytes, name: str = "wrap") -> TokenKey:
    """A token whose secret key is `key`."""
    return TokenKey(name, lambda data: hmac.digest(key, data, "sha256"))


def test_the_first_format_has_no_new_fields() -> None:
    """Programs of that format refuse unknown ones."""
    for unlock in (cheap(b"x"), KeyFile(Secret(bytes(32)))):
        wrapped = wrap(MASTER, unlock, CLUSTER)
        names = set(msgspec.json.decode(msgspec.json.encode(wrapped)))
        assert names == {"unlock", "memory_kib", "passes", "lanes", "salt", "nonce", "wrapped"}
        assert not wrapped.needs_newer_format


def test_shares_open_what_they_wrapped_and_no_others_do() -> None:
    made, other = deal(2, 3), deal(2, 3)
    wrapped = wrap(MASTER, SharedSecret(made.secret, made.share_set), CLUSTER)
    assert wrapped.needs_newer_format
    assert wrapped.opened_by == f"2 of 3 shares of set {made.share_set.name}"
    assert msgspec.json.decode(msgspec.json.encode(wrapped), type=WrappedKey) == wrapped
    restored = SharedSecret(Secret(combine(made.shares[1:])), made.share_set)
    assert unwrap(wrapped, restored, CLUSTER).reveal() == MASTER.reveal()
    with pytest.raises(StoreError, match="the shares are not this store's"):
        unwrap(wrapped, SharedSecret(other.secret, made.share_set), CLUSTER)
    with pytest.raises(StoreError, match="is opened by shares, and a passphrase was given"):
        unwrap(wrapped, cheap(b"x"), CLUSTER)
    with pytest.raises(StoreError, match="altered"):
        unwrap(msgspec.structs.replace(wrapped, share_set=other.share_set), restored, CLUSTER)


def test_a_tokens_key_opens_what_it_wrapped_and_no_other_does() -> None:
    wrapped = wrap(MASTER, token_key(b"a" * 32), CLUSTER)
    assert (wrapped.token_key, wrapped.needs_newer_format) == ("wrap", True)
    assert unwrap(wrapped, token_key(b"a" * 32, "another name"), CLUSTER).reveal() == MASTER.reveal()
    with pytest.raises(StoreError, match=r"wrapping key is not the one that this store was made with \(wrap\)"):
        unwrap(wrapped, token_key(b"b" * 32), CLUSTER)
    with pytest.raises(StoreError, match="altered"):
        unwrap(msgspec.structs.replace(wrapped, token_key="other"), token_key(b"a" * 32), CLUSTER)


def test_a_token_is_asked_about_this_cluster_and_salt_only() -> None:
    asked: list[bytes] = []

    def mac(data: bytes) -> bytes:
        asked.append(data)
        return b"m" * 32

    wrapped = wrap(MASTER, TokenKey("wrap", mac), CLUSTER)
    assert CLUSTER in asked[0]
    assert wrapped.salt in asked[0]
    with pytest.raises(StoreError):
        unwrap(wrapped, TokenKey("wrap", mac), b"d" * 16)
    unwrap(wrapped, TokenKey("wrap", mac), CLUSTER)
    assert asked[0] == asked[2] != asked[1]


def test_what_a_token_raises_is_passed_on() -> None:
    def mac(_data: bytes) -> bytes:
        raise ConnectionError("the token is gone")

    with pytest.raises(ConnectionError, match="the token is gone"):
        wrap(MASTER, TokenKey("wrap", mac), CLUSTER)


def test_secrets_that_are_ours_are_wiped(tmp_path: Path) -> None:
    made = deal(2, 2)
    shared, file = SharedSecret(made.secret, made.share_set), create_key_file(tmp_path / "key")
    for unlock, secret in ((shared, shared.secret), (file, file.key)):
        assert secret.reveal() != bytes(32)
        forget(unlock)
        assert secret.reveal() == bytearray(32)
    forget(cheap(b"x"))
    forget(token_key(b"x"))


SHARES_HEADER = (
    b'{"unlock":"shares","memory_kib":0,"passes":0,"lanes":0,"salt":"FgnPU3ULA9ewSVqfcqQvIg==","nonce":"45'
    b'oTEIVdFGA2avcJ","wrapped":"vwNukrrcAze7RFbUlAno5hWgCgrw3iBQVUJyR5JkoZCRCsEynJR1Tbuhrv/VGBlL","share_'
    b'set":{"set_id":"c2V0aQ==","threshold":2,"commitments":["AmGIjhJqYwtYDZMdA8xfRDRKFAi+7CJipwahzonM+uM='
    b'","H/z1Sa5KCtpTPjsJqKWIzBE5RRIEUCa8scuFdvVmoHc="]}}'
)
TOKEN_HEADER = (
    b'{"unlock":"pkcs11","memory_kib":0,"passes":0,"lanes":0,"salt":"U7snlwO9P3agp6xsqes3IQ==","nonce":"Kt'
    b'11Rp8GYml2Q1RF","wrapped":"JIg/MUBUv5HMdMLBwEEtXf/SoKAZtIuSdlyAXzgtjUVy/9Urph6DbO9zUJUbOh3l","token_'
    b'key":"wrap"}'
)


@pytest.mark.parametrize(
    ("header", "unlock"),
    [
        (
            SHARES_HEADER,
            SharedSecret(Secret(b"s" * 32), deal(2, 2).share_set),
        ),
        (
            TOKEN_HEADER,
            token_key(b"t" * 32),
        ),
    ],
)
def test_master_keys_that_the_second_format_wrapped_still_open(header: bytes, unlock: Unlock) -> None:
    wrapped = msgspec.json.decode(header, type=WrappedKey)
    assert wrapped.needs_newer_format
    assert unwrap(wrapped, unlock, bytes(range(16))).reveal() == bytes(range(32))
