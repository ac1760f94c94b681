from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm.shared.strict_toml import ConfigError, Problems, load, parse, resolve


class Server(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 80
    kind: Literal["a", "b"] = "a"


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ciphers: tuple[str, ...] = ()
    lifetime_s: float = 1.0


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tls: Tls = Tls()
    limit: Tls | None = None
    servers: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1)]


GOOD = """
[tls]
ciphers = ["x", "y"]
lifetime_s = 2
[[servers]]
name = "one"
[[servers]]
name = "two"
port = 8080
"""


def problems_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Config, "proxy.toml")
    return caught.value.problems


def test_a_good_text_becomes_a_frozen_value() -> None:
    config = parse(GOOD, Config, "x")
    assert [server.port for server in config.servers] == [80, 8080]
    assert config.tls == Tls(ciphers=("x", "y"), lifetime_s=2.0)


def test_all_problems_come_at_once_with_lines_and_paths() -> None:
    text = """[tls]
ciphres = []
lifetime_s = "long"
[[servers]]
name = "one"
[[servers]]
name = "two"
port = 70000
kind = "c"
nonsense = 1
"""
    with pytest.raises(ConfigError) as caught:
        parse(text, Config, "proxy.toml")
    assert str(caught.value).splitlines() == [
        "proxy.toml:2: tls.ciphres: unknown key; did you mean 'ciphers'?",
        "proxy.toml:3: tls.lifetime_s: expected float, got str (found 'long'); correct the value",
        "proxy.toml:8: servers[1].port: expected int <= 65535 (found 70000); correct the value",
        "proxy.toml:9: servers[1].kind: 'c' is none of a, b; choose one of them",
        "proxy.toml:10: servers[1].nonsense: unknown key; known here: kind, name, port",
    ]


class Cat(msgspec.Struct, frozen=True, kw_only=True, tag="cat", tag_field="type"):
    mood: Literal["sleepy", "hungry"] | None = None


class Dog(msgspec.Struct, frozen=True, kw_only=True, tag="dog", tag_field="type"):
    size: int = 1


class Home(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pets: tuple[Cat | Dog, ...] = ()


@pytest.mark.parametrize(
    ("pet", "sentence"),
    [
        ('type = "cats"', "pets[0].type: 'cats' is none of cat, dog; did you mean 'cat'?"),
        ('type = "fish"', "pets[0].type: 'fish' is none of cat, dog; choose one of them"),
        ('type = "cat"\nmood = "sleepi"', "pets[0].mood: 'sleepi' is none of hungry, sleepy; did you mean 'sleepy'?"),
    ],
)
def test_where_only_some_words_may_stand_they_are_named(pet: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[[pets]]\n{pet}\n", Home, "home.toml")
    assert caught.value.problems[0].split(": ", 1)[1] == sentence


def test_a_missing_field_names_the_table() -> None:
    assert problems_of('[[servers]]\nname = "a"\n[[servers]]\nport = 1\n') == [
        "3: servers[1]: 'name' is missing; add it"
    ]
    assert problems_of("") == ["'servers' is missing; add it"]


def test_a_wrong_required_value_is_not_also_called_missing() -> None:
    assert problems_of("[[servers]]\nname = 5\n") == [
        "2: servers[0].name: expected str, got int (found 5); correct the value"
    ]


def test_an_element_of_an_array_is_named() -> None:
    text = '[[servers]]\nname = "a"\n[tls]\nciphers = [\n  "x",\n  7,\n]\n'
    assert problems_of(text) == ["4: tls.ciphers[1]: expected str, got int (found 7); correct the value"]


def test_unknown_keys_in_an_optional_section_list_what_is_known() -> None:
    assert problems_of('servers = [{name = "a"}]\n[limit]\nzzz = 1\n') == [
        "3: limit.zzz: unknown key; known here: ciphers, lifetime_s"
    ]


def test_an_unknown_section_is_named_with_its_line() -> None:
    assert problems_of(GOOD + "[tsl]\na = 1\n") == ["10: tsl: unknown key; did you mean 'tls'?"]


def test_syntax_errors_name_the_line() -> None:
    (problem,) = problems_of("[tls]\nciphers = [\n")
    assert "not valid TOML: " in problem
    assert problems_of("a = 1\nb =\n")[0].startswith("2: column 4: not valid TOML: ")


def test_files_that_can_not_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: can't be read: No such file"):
        load(tmp_path / "none.toml", Config)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"bad\.toml:2: is not UTF-8"):
        load(bad, Config)
    bad.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(bad, Config)
    good = tmp_path / "good.toml"
    good.write_text(GOOD)
    assert load(good, Config).tls.lifetime_s == 2.0


def test_a_deeply_nested_text_is_refused_without_a_traceback() -> None:
    assert problems_of("a = " + "[" * 100_000)


def test_programs_add_their_own_problems_with_lines() -> None:
    problems = Problems(GOOD)
    problems.add(("servers", 1, "port"), "is used twice; choose another")
    problems.add((), "has no listener; add one")
    with pytest.raises(ConfigError) as caught:
        problems.raise_if_any("p.toml")
    assert str(caught.value).splitlines() == [
        "p.toml: has no listener; add one",
        "p.toml:9: servers[1].port: is used twice; choose another",
    ]
    Problems(GOOD).raise_if_any("p.toml")


def test_relative_paths_start_at_the_config(tmp_path: Path) -> None:
    assert resolve(tmp_path, "a/b.pem") == tmp_path / "a/b.pem"
    assert resolve(tmp_path, "/x/b.pem") == Path("/x/b.pem")


@given(st.text(alphabet=st.sampled_from("ab[]{}=.\"'\n#1, \\")))
def test_any_text_gives_a_value_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, Config, "x"), Config)
