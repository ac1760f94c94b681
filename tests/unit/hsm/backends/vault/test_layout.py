from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hsm.backends.vault.layout import key_path, label_path, ski_of_path


@given(st.binary(min_size=20, max_size=20))
def test_key_paths_name_their_ski(ski: bytes) -> None:
    assert ski_of_path(key_path(ski)) == ski


def test_other_paths_name_no_key() -> None:
    assert ski_of_path(label_path("a" * 40)) is None
    assert ski_of_path("keys/" + "0" * 39) is None
    assert ski_of_path("keys/" + "0" * 40 + "\n") is None
