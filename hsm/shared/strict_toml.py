"""Turns a TOML file into frozen config values, and everything wrong with it into sentences with file and line.

Does not open the files that a config names and knows no section of any program; those check what crosses sections
themselves and raise the same `ConfigError` (`Problems` finds lines for them).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from hsm.shared import toml_lines

T = TypeVar("T")

MAX_CONFIG_BYTES = 1024 * 1024
_MAX_PROBLEMS = 50
_AT_LINE = re.compile(r"\s*\(at line (\d+), column (\d+)\)$")
_AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)
_SECRET_WORDS = ("pin", "pass", "secret")
"""A wrong value of a field called so may be the secret itself, put into the wrong place: it is not shown."""
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


class ConfigError(Exception):
    """A file is not what it must be.

    `path` is the file; each of `problems` is "what is wrong; what to do", with the dotted path of the field before
    it and the line before that where they are known: "12: sites[0].names: ...". `str()` has one line per problem.
    """

    def __init__(self, path: str | Path, problems: Iterable[str]) -> None:
        self.path = str(path)
        self.problems = list(problems)
        super().__init__(self.path, self.problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.path}:{'' if re.match(r'[0-9]+: ', p) else ' '}{p}" for p in self.problems)


class Problems:
    """Collects what is wrong with one TOML text, with lines.

    ::

        problems = Problems(text)
        problems.add(("sites", 0, "upstream"), "no upstream is named 'app'; define it under [[upstreams]]")
        problems.raise_if_any(path)
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.found: list[str] = []

    def add(self, path: toml_lines.Path, sentence: str) -> None:
        """Note a problem with the field at `path`: keys and array indexes from the top."""
        line = toml_lines.line_of(self._text, path)
        parts = ([str(line)] if line else []) + ([dotted(path)] if path else []) + [sentence]
        self.found.append(": ".join(parts))

    def raise_if_any(self, source: str | Path) -> None:
        """Raise ConfigError when anything was noted, in the order of lines."""
        if self.found:
            raise ConfigError(source, sorted(self.found, key=_line_first))


def _line_first(problem: str) -> int:
    number = re.match(r"([0-9]+): ", problem)
    return int(number[1]) if number else 0


def dotted(path: toml_lines.Path) -> str:
    """How a path is written in messages: sites[0].names."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def resolve(base_dir: Path, path: str | Path) -> Path:
    """A path as written in a config: relative ones start at the config file's folder, `~` is the user's home."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError:  # no such user: the path leads nowhere, and whoever looks there says so
        expanded = Path(path)
    return Path(base_dir) / expanded


def load(path: Path, type_: type[T]) -> T:
    """Read a TOML file as a value of `type_`, a msgspec Struct that forbids unknown fields.

    Raises ConfigError: unreadable, not TOML, unknown keys, wrong types and ranges, missing fields.
    """
    return parse(read_text(path), type_, str(path))


def read_text(path: Path) -> str:
    """The text of a config file, at most 1 MiB of UTF-8. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(path, ["is larger than 1 MiB; this is not a config file"])
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(path, [f"{line}: is not UTF-8 text; save the file as UTF-8"]) from None
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}; check the path and its permissions"]) from None


def parse(text: str, type_: type[T], source: str) -> T:
    """Like `load`, from a text; `source` names it in errors."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [_syntax_problem(str(error))]) from None
    except RecursionError:
        raise ConfigError(source, ["is nested too deeply; this is not a config file"]) from None
    problems = Problems(text)
    while len(problems.found) < _MAX_PROBLEMS:
        try:
            value = msgspec.convert(data, type_)
        except msgspec.ValidationError as error:
            if not _note(problems, str(error), data, type_):
                break
        else:
            problems.raise_if_any(source)
            return value
    problems.raise_if_any(source)
    raise AssertionError("unreachable: a problem was noted")


def _syntax_problem(message: str) -> str:
    where = _AT_LINE.search(message)
    what = _AT_LINE.sub("", message)
    prefix = f"{where[1]}: column {where[2]}: " if where else ""
    return f"{prefix}not valid TOML: {what}; correct the line"


def _note(problems: Problems, message: str, data: dict[str, Any], type_: type[Any]) -> bool:
    """Add what msgspec found and take the offender out of `data`; False when looking further would mislead.

    msgspec stops at its first problem, and a user wants to see all of them at once.
    """
    match = _AT_PATH.match(message)
    assert match is not None
    what, path = match["what"], _path_of(match["path"] or "$")
    if missing := _MISSING.match(what):
        problems.add(path, f"{missing['name']!r} is missing; add it")
        return False
    if unknown := _UNKNOWN.match(what):
        path += (unknown["name"],)
        problems.add(path, _unknown_sentence(unknown["name"], _field_names(type_, path[:-1], data)))
        return _drop(data, path, is_required=False)
    value = None if any(word in str(path[-1:]) for word in _SECRET_WORDS) else _value_at(data, path)
    problems.add(path, _wrong_value_sentence(what, value, _choices(type_, path, data)))
    return _drop(data, path, is_required=_is_required(type_, path, data))


def _path_of(text: str) -> toml_lines.Path:
    return tuple(key or int(index) for key, index in _STEP.findall(text))


def _unknown_sentence(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"unknown key; did you mean {near[0]!r}?"
    return f"unknown key; known here: {', '.join(sorted(known))}" if known else "unknown key; remove it"


def _wrong_value_sentence(what: str, value: object, choices: list[str]) -> str:
    if choices and isinstance(value, str):
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{value[:60]!r} is none of {', '.join(choices)}{hint or '; choose one of them'}"
    shown = repr(value) if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 60) else ""
    return f"{what[:1].lower()}{what[1:].replace('`', '')}{f' (found {shown})' if shown else ''}; correct the value"


def _value_at(data: Any, path: toml_lines.Path) -> Any:
    for step in path:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _drop(data: dict[str, Any], path: toml_lines.Path, *, is_required: bool) -> bool:
    """Remove the value at `path`; False when that would make a new problem."""
    holder = _value_at(data, path[:-1])
    if is_required or not path or not isinstance(holder, dict) or path[-1] not in holder:
        return False
    del holder[path[-1]]
    return True


def _struct_at(type_: type[Any], path: toml_lines.Path, data: Any) -> msgspec.inspect.StructType | None:
    """The description of the struct at `path`, where the path leads through structs, arrays and optional values.

    Where several structs are possible, the tag in `data` says which one is meant.
    """
    node = _resolved(_type_at(type_, path, data), _value_at(data, path))
    return node if isinstance(node, msgspec.inspect.StructType) else None


def _type_at(type_: type[Any], path: toml_lines.Path, data: Any) -> Any:
    """The description of whatever is at `path`, with its constraints and alternatives."""
    node: Any = msgspec.inspect.type_info(type_)
    for step in path:
        node, data = _resolved(node, data), _value_at(data, (step,))
        if isinstance(step, int):
            node = getattr(node, "item_type", None)
        else:
            fields = getattr(node, "fields", ())
            node = next((field.type for field in fields if field.encode_name == step), None)
    return node


def _choices(type_: type[Any], path: toml_lines.Path, data: Any) -> list[str]:
    """The words that may stand at `path`, where only some may: a literal's, or the tags of several structs."""
    if not path:
        return []
    holder = _type_at(type_, path[:-1], data)
    if isinstance(holder, msgspec.inspect.UnionType):
        structs = [part for part in holder.types if isinstance(part, msgspec.inspect.StructType)]
        if tags := [str(part.tag) for part in structs if part.tag_field == path[-1]]:
            return tags
    node = _resolved(_type_at(type_, path, data), _value_at(data, path))
    if isinstance(node, msgspec.inspect.LiteralType):
        return [str(value) for value in node.values]
    if isinstance(node, msgspec.inspect.EnumType):
        return [str(member.value) for member in node.cls]
    return []


def _resolved(node: Any, data: Any) -> Any:
    """What is left of a type when constraints and the alternatives that `data` rules out are taken away."""
    while True:
        if isinstance(node, msgspec.inspect.Metadata):
            node = node.type
        elif isinstance(node, msgspec.inspect.UnionType):
            node = next((part for part in node.types if _is_meant(part, data)), None)
        else:
            return node


def _is_meant(part: Any, data: Any) -> bool:
    if isinstance(part, msgspec.inspect.StructType) and part.tag_field is not None:
        return bool(_value_at(data, (part.tag_field,)) == part.tag)
    return not isinstance(part, msgspec.inspect.NoneType)


def _field_names(type_: type[Any], path: toml_lines.Path, data: Any) -> list[str]:
    struct = _struct_at(type_, path, data)
    if struct is None:
        return []
    return [field.encode_name for field in struct.fields] + ([struct.tag_field] if struct.tag_field else [])


def _is_required(type_: type[Any], path: toml_lines.Path, data: Any) -> bool:
    struct = _struct_at(type_, path[:-1], data)
    if struct is None or path[-1] == struct.tag_field:
        return True
    return any(field.encode_name == path[-1] and field.required for field in struct.fields)
