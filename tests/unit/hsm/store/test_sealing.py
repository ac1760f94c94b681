from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.logs import Secret
from hsm.store.errors import StoreError, StoreReason
from hsm.store.sealing import Place, SealedRecord, Sealer

SEALER = Sealer(Secret(b"m" * 32), b"c" * 16)
PLACE = Place("keys/a", 3, 7, True)


@given(
    st.text(min_size=1, max_size=50),
    st.integers(1, 2**63 - 1),
    st.integers(1, 2**63 - 1),
    st.booleans(),
    st.binary(max_size=500),
)
def test_any_value_comes_back_from_its_place(path: str, version: int, revision: int, live: bool, value: bytes) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        return
    sealed = SEALER.seal(Place(path, version, revision, live), value)
    assert SEALER.open(sealed) == value
    assert len(value) < 8 or value not in sealed.value


@pytest.mark.parametrize(
    "change",
    [
        {"path": "keys/b"},
        {"path": "keys/\udcff"},
        {"version": 2},
        {"version": -1},
        {"revision": 8},
        {"revision": 2**64},
        {"is_live": False},
    ],
)
def test_a_value_means_nothing_in_another_place(change: dict[str, object]) -> None:
    sealed = SEALER.seal(PLACE, b"value")
    moved = replace(sealed, place=replace(PLACE, **change))  # type: ignore[arg-type]  # fields by name
    with pytest.raises(StoreError, match="was altered, moved or replaced") as caught:
        SEALER.open(moved)
    assert caught.value.reason is StoreReason.TAMPERED
    assert caught.value.record == moved.place.path


@given(st.integers(0, 8 * (5 + 16) - 1))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    sealed = SEALER.seal(PLACE, b"value")
    value = bytearray(sealed.value)
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoreError):
        SEALER.open(SealedRecord(PLACE, sealed.nonce, bytes(value)))


def test_other_keys_clusters_and_nonces_open_nothing() -> None:
    sealed = SEALER.seal(PLACE, b"value")
    for other in (Sealer(Secret(b"n" * 32), b"c" * 16), Sealer(Secret(b"m" * 32), b"d" * 16)):
        with pytest.raises(StoreError):
            other.open(sealed)
    for nonce in (b"", b"n" * 12, b"n" * 300):
        with pytest.raises(StoreError):
            SEALER.open(replace(sealed, nonce=nonce))


def test_nonces_are_fresh_and_nothing_shows_in_repr() -> None:
    sealed = [SEALER.seal(PLACE, b"value") for _ in range(100)]
    assert len({record.nonce for record in sealed}) == 100
    assert "value" not in repr(sealed[0])
    assert "mmmm" not in repr(SEALER)


def test_values_that_the_first_format_sealed_still_open() -> None:
    sealer = Sealer(Secret(bytes(range(32))), bytes(range(16)))
    value = bytes.fromhex("790bca290a7de5d8a9985cd7ac92fb8ef62094c769")
    assert sealer.open(SealedRecord(Place("keys/a", 2, 3, True), b"\7" * 12, value)) == b"value"
