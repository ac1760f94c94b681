from __future__ import annotations

import ctypes
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.pkcs11 import constants as c
from hsm.backends.pkcs11 import structures
from hsm.backends.pkcs11.structures import Attribute, MechanismCall, attributes_of, number_of, text_of, value_bytes


@pytest.mark.skipif(sys.maxsize < 2**32 or not sys.platform.startswith("linux"), reason="sizes on 64-bit Linux")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("Version", 2),
        ("InitializeArgs", 48),
        ("Info", 88),
        ("SlotInfo", 112),
        ("TokenInfo", 208),
        ("SessionInfo", 32),
        ("Attribute", 24),
        ("Mechanism", 24),
        ("Interface", 24),
    ],
)
def test_sizes_are_those_of_a_c_compiler(name: str, size: int) -> None:
    assert ctypes.sizeof(getattr(structures, name)) == size


def test_values_as_they_stand_in_memory() -> None:
    assert (value_bytes(True), value_bytes(False)) == (b"\1", b"\0")
    assert value_bytes(b"ab") == b"ab"
    assert int.from_bytes(value_bytes(5), sys.byteorder) == 5
    assert number_of(value_bytes(c.CKK_EC_EDWARDS)) == c.CKK_EC_EDWARDS
    assert number_of(b"\1") is None


@given(
    st.dictionaries(st.integers(0, 2**32), st.booleans() | st.integers(0, 2**63) | st.binary(max_size=50), max_size=8)
)
def test_a_template_is_an_array_of_pointers_to_its_values(template: dict[int, bool | int | bytes]) -> None:
    array, _keep = attributes_of(template)
    assert len(array) == len(template)
    for slot, (kind, value) in zip(array, template.items(), strict=True):
        assert isinstance(slot, Attribute)
        assert slot.type == kind
        assert ctypes.string_at(slot.value, slot.length) == value_bytes(value)


@pytest.mark.parametrize("parameter", [b"", b"parameter\0with zero"])
def test_a_mechanism_points_to_its_parameter(parameter: bytes) -> None:
    call = MechanismCall(c.CKM_RSA_PKCS_PSS, parameter)
    structure = call.reference._obj  # type: ignore[attr-defined]
    assert structure.mechanism == c.CKM_RSA_PKCS_PSS
    assert structure.length == len(parameter)
    assert (ctypes.string_at(structure.parameter, structure.length) if parameter else structure.parameter) == (
        parameter or None
    )


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"web       ", "web"), (b"web\0\0", "web"), ("Schlüssel ".encode(), "Schlüssel"), (b"\xff", "�"), (b"", "")],
)
def test_texts_are_padded(raw: bytes, text: str) -> None:
    assert text_of(raw) == text
