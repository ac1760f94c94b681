"""Reads `proxy.toml`: the schema's types and ranges first, then what no single field can know (`checks.py`).

`load_config` reports everything that is wrong at once, with lines, and makes relative file paths absolute. It does not
open the files that the config names: `missing_files` asks whether they are there, `proxy/tls` reads certificates.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hsm.shared.strict_toml import Problems, parse, read_text, resolve
from proxy.config.checks import contradictions
from proxy.config.schema import ProxyConfig


def load_config(path: Path) -> ProxyConfig:
    """The whole config with absolute file paths.

    Raises ConfigError with one line for each problem, also for a file that can't be read or is not TOML.
    """
    text = read_text(path)
    config = parse(text, ProxyConfig, str(path))
    problems = Problems(text)
    for where, sentence in contradictions(config):
        problems.add(where, sentence)
    problems.raise_if_any(path)
    return _with_absolute_paths(config, path.resolve().parent)


def missing_files(config: ProxyConfig) -> list[str]:
    """Files of `[signing]` that are not there or can't be read, as "path: file: reason".

    Site certificates are not looked at: reading them belongs to `proxy/tls`, which reports the same and more.
    """
    named = ((field, Path(getattr(config.signing, field))) for field in ("ca", "certificate", "private_key"))
    return [f"signing.{field}: {file}: {reason}" for field, file in named if (reason := _unreadable(file))]


def _unreadable(file: Path) -> str:
    if not file.exists():
        return "no such file; create it or correct the path"
    if not file.is_file():
        return "is not a file; correct the path"
    return "" if os.access(file, os.R_OK) else "permission denied; let this user read it"


def _with_absolute_paths(config: ProxyConfig, base_dir: Path) -> ProxyConfig:
    def absolute(file: str) -> str:
        return str(resolve(base_dir, file))

    signing = msgspec.structs.replace(
        config.signing,
        ca=absolute(config.signing.ca),
        certificate=absolute(config.signing.certificate),
        private_key=absolute(config.signing.private_key),
    )
    sites = tuple(
        msgspec.structs.replace(site, certificates=tuple(absolute(file) for file in site.certificates))
        for site in config.sites
    )
    control = config.control
    if control.socket:
        control = msgspec.structs.replace(control, socket=absolute(control.socket))
    return msgspec.structs.replace(config, signing=signing, sites=sites, control=control)
