from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hsm.cli.table import plain, table


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert table(("A", "LONG", "B"), [("1", "2", "3"), ("100", "", "3")]) == [
        ["A  ", "LONG", "B"],
        ["1  ", "2   ", "3"],
        ["100", "    ", "3"],
    ]


def test_empty_columns_are_left_out() -> None:
    assert table(("A", "B"), [("1", ""), ("2", "")]) == [["A"], ["1"], ["2"]]


def test_a_label_can_not_speak_to_the_terminal() -> None:
    assert plain("a\x1b[31mb\n\u202ec") == "a\\x1b[31mb\\x0a\\x202ec"
    assert plain("münchen") == "münchen"


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=5))
def test_nothing_is_ever_cut(rows: list[tuple[str, str]]) -> None:
    shown = "\n".join("  ".join(line) for line in table(("A", "B"), rows))
    assert all(plain(cell) in shown for row in rows for cell in row)
    assert len(shown.split("\n")) == len(rows) + 1 or not any(map(any, rows))
