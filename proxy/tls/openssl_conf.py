"""Merge our provider into the OpenSSL configuration that the user already has.

Does: find in the user's file which section lists the providers, and write a configuration that includes the user's
file and then adds to that section (a section may be opened again; the last assignment of a name counts).
Does not: interpret anything else; OpenSSL itself reads the user's file through `.include`.

The syntax is that of config(5ossl). Names are all that is taken from the user's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TOP = "default"
"""What OpenSSL calls the part of a file before the first section."""
_INIT, _PROVIDERS, _BUILTIN, _OURS = (f"sealgate_{name}" for name in ("init", "providers", "builtin", "provider"))
_MAX_DEPTH = 8
_SECTION = re.compile(r"\[\s*(?P<name>[^\]]*?)\s*\]")
_INCLUDE = re.compile(r"\.include\s*=?\s*(?P<path>.+)")
_REFERENCE = re.compile(r"\$(?:\{([^}]+)\}|\(([^)]+)\)|(\w+(?:::\w+)?))")


class ConfError(Exception):
    """The user's configuration can't be used; the text names the file and says what to do."""


@dataclass
class UserConf:
    """What matters of the user's configuration: the file, and every assignment by section."""

    path: Path | None = None
    sections: dict[str, dict[str, str]] = field(default_factory=lambda: {_TOP: {}})

    def value(self, section: str, name: str) -> str | None:
        """What `name` is in `section`, or before the first section; None when it is nowhere."""
        return self.sections.get(section, {}).get(name, self.sections[_TOP].get(name))


def read_user_conf(path: Path) -> UserConf:
    """Read the file that OPENSSL_CONF names, and what it includes. Raises ConfError."""
    conf = UserConf(path)
    _read(path, conf, _TOP, depth=0)
    return conf


def merged_conf(user: UserConf, module: Path) -> str:
    """The text of a configuration: the user's, plus the built-in provider and ours from the file `module`."""
    init = user.value(_TOP, "openssl_conf") or _INIT
    providers = user.sections.get(init, {}).get("providers") or _PROVIDERS
    builtin = user.sections.get(providers, {}).get("default") or _BUILTIN
    lines = [f"openssl_conf = {init}"]
    if user.path is not None:
        lines.append(f".include {_quoted(user.path.absolute())}")
    lines += [f"[{init}]", f"providers = {providers}"]
    lines += [f"[{providers}]", f"default = {builtin}", f"sealgate = {_OURS}"]
    lines += [f"[{builtin}]", "activate = 1"]
    lines += [f"[{_OURS}]", f"module = {_quoted(module)}", "activate = 1", ""]
    return "\n".join(lines)


def _quoted(path: Path) -> str:
    """A path as a value: what is special to OpenSSL gets a backslash."""
    text = str(path)
    if re.search(r"[\x00-\x1f]", text):
        raise ConfError(f"the path {text!r} has a control character, which OpenSSL's configuration can't hold; move it")
    return re.sub(r"""([\\"'`$#;= (){}\[\],])""", r"\\\1", text)


def _read(path: Path, conf: UserConf, section: str, *, depth: int) -> str:
    """Add the assignments of one file to `conf`; returns the section that is open at its end."""
    if depth > _MAX_DEPTH:
        raise ConfError(f"{path}: files include each other more than {_MAX_DEPTH} deep; remove the circle")
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfError(
            f"the OpenSSL configuration {path} can't be read ({error.strerror}); correct OPENSSL_CONF or unset it"
        ) from None
    for line in _logical_lines(text):
        if found := _SECTION.match(line):
            section = found["name"]
            conf.sections.setdefault(section, {})
        elif found := _INCLUDE.match(line):
            for included in _included(_expanded(_unquoted(found["path"]), conf, section)):
                section = _read(included, conf, section, depth=depth + 1)
        elif "=" in line and not line.startswith(".pragma"):
            name, value = (part.strip() for part in line.split("=", 1))
            owner, _, name = name.rpartition("::")
            conf.sections.setdefault(owner or section, {})[name] = _expanded(_unquoted(value), conf, section)
    return section


def _logical_lines(text: str) -> Iterator[str]:
    """Lines without comments, joined where one ends with a backslash."""
    pending = ""
    for physical in text.splitlines():
        line = pending + re.sub(r"(?<!\\)#.*", "", physical).rstrip()
        if line.endswith("\\") and not line.endswith("\\\\"):
            pending = line[:-1]
            continue
        pending = ""
        if line.strip():
            yield line.strip()


def _unquoted(value: str) -> str:
    return re.sub(r"""(["'`])(.*?)\1""", r"\2", value)


def _expanded(value: str, conf: UserConf, section: str) -> str:
    def replace(found: re.Match[str]) -> str:
        owner, _, name = next(group for group in found.groups() if group).rpartition("::")
        if owner == "ENV":
            return os.environ.get(name, "")
        return conf.value(owner or section, name) or ""

    return _REFERENCE.sub(replace, value)


def _included(name: str) -> list[Path]:
    """The file, or the .cnf and .conf files of the folder; relative to where OpenSSL looks."""
    base = os.environ.get("OPENSSL_CONF_INCLUDE", "")
    path = Path(base) / name
    if not path.is_dir():
        return [path]
    return sorted(each for each in path.iterdir() if each.suffix in (".cnf", ".conf"))
