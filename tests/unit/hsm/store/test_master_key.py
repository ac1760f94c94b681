from __future__ import annotations

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
    WrappedKey,
    create_key_file,
    key_file,
    passphrase,
    passphrase_from_file,
    unwrap,
    wrap,
)

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
