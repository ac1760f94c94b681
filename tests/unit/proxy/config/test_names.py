from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.names import folded_name, is_dns_name


@pytest.mark.parametrize("name", ["a", "a.b", "*.a", "xn--bcher-kva.example", "bücher.example", "_x.a", "A.B.", "1.a"])
def test_names(name: str) -> None:
    assert is_dns_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "*",
        "*.",
        "a..b",
        "-a.b",
        "a-.b",
        "a b",
        "a.*",
        "192.0.2.1",
        "x" * 64,
        "a." * 127 + "a",
        "a/b",
        "*.*.a",
        "a.b\n",
    ],
)
def test_what_is_no_name(name: str) -> None:
    assert not is_dns_name(name)


@given(st.text(max_size=300))
def test_any_text_gets_an_answer(name: str) -> None:
    assert is_dns_name(name) in (True, False)
    folded_name(name)
