from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.toml_lines import Path, index_lines, line_of

TEXT = '''# comment
top = 1
"quoted key" = 2
dotted.inner = 3

[table] # with a comment
text = """
[not-a-header]
fake = 1
"""
literal = \'\'\'
[[nor-this]] \'\'\'
list = [
  "[x]", # ]
  { a = 1 },
]
after = "]"

[[array]]
name = "zero"
[[array]]
name = "one"
[array.sub]
deep = true
[[array.many]]
x = 1
[[array.many]]
x = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("quoted key",), 3),
        (("dotted", "inner"), 4),
        (("table",), 6),
        (("table", "text"), 7),
        (("table", "literal"), 11),
        (("table", "list"), 13),
        (("table", "after"), 17),
        (("array", 0, "name"), 20),
        (("array", 1), 21),
        (("array", 1, "name"), 22),
        (("array", 1, "sub", "deep"), 24),
        (("array", 1, "many", 1, "x"), 28),
    ],
)
def test_keys_are_found_on_their_lines(path: Path, line: int) -> None:
    tomllib.loads(TEXT)
    assert line_of(TEXT, path) == line


def test_what_has_no_line_falls_back_to_what_holds_it() -> None:
    assert line_of(TEXT, ("table", "list", 1, "a")) == 13
    assert line_of(TEXT, ("array", 0, "missing")) == 19
    assert line_of(TEXT, ("nothing", "here")) is None
    assert line_of(TEXT, ()) is None


def test_text_in_strings_and_arrays_is_no_key() -> None:
    found = index_lines(TEXT)
    assert ("table", "fake") not in found
    assert ("not-a-header",) not in found
    assert ("nor-this",) not in found


keys = st.from_regex(r"\A[a-z]{1,3}\Z")
values = st.one_of(st.just("1"), st.just('"x # ] = ["'), st.just("[\n1,\n2]"), st.just('"""\na = 1\n[b]\n"""'))


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=4), max_size=4))
def test_every_key_of_a_generated_text_is_found_where_it_was_written(tables: dict[str, dict[str, str]]) -> None:
    lines: list[str] = []
    expected: dict[Path, int] = {}
    for table, entries in tables.items():
        lines.append(f"[{table}]")
        expected[(table,)] = len(lines)
        for key, value in entries.items():
            expected[(table, key)] = len(lines) + 1
            lines.extend(f"{key} = {value}".split("\n"))
    text = "\n".join(lines)
    data: dict[str, Any] = tomllib.loads(text)
    assert data.keys() == tables.keys()
    assert index_lines(text) == expected


@given(st.text(alphabet=st.sampled_from("ab[]{}=.\"'\n#1, \\")))
def test_no_text_makes_it_fail(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    index_lines(text)
