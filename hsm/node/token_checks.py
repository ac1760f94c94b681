"""What can be wrong with `[[tokens]]` beyond its types, said with the place in the file. Opens no token.

It looks whether files exist and are private enough, and whether one token is opened in exactly one way.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from hsm.backends.pkcs11.uri import Pkcs11Uri, UriProblem, parse_uri
from hsm.node.token_config import Pkcs11TokenConfig, SimulatedTokenConfig, TokenConfig, VaultOpening
from hsm.shared import strict_toml, toml_lines

NOT_AN_HSM = (
    "a simulated token is no HSM: it is a software vault made slow and faulty, for tests;"
    " if that is what you want, set i_know_this_is_not_an_hsm = true"
)


def note_token_problems(tokens: Sequence[TokenConfig], base_dir: Path, problems: strict_toml.Problems) -> None:
    """Notes everything that is wrong; `base_dir` is the folder of the config file."""
    names: set[str] = set()
    for number, token in enumerate(tokens):
        path: toml_lines.Path = ("tokens", number)
        if token.name in names:
            problems.add((*path, "name"), f"another token is named {token.name!r}; choose a name that is unique")
        names.add(token.name)
        if isinstance(token, Pkcs11TokenConfig):
            _note_pkcs11(token, path, base_dir, problems)
        else:
            _note_opening(token, path, base_dir, problems)
        if isinstance(token, SimulatedTokenConfig):
            _note_simulated(token, path, problems)


def _note_opening(token: VaultOpening, path: toml_lines.Path, base_dir: Path, problems: strict_toml.Problems) -> None:
    ways = (token.passphrase_file is not None, token.key_file is not None, token.shares, token.wrapping_key is not None)
    if sum(ways) != 1:
        problems.add(path, "set exactly one of passphrase_file, key_file, shares = true and wrapping_key")
    store = strict_toml.resolve(base_dir, token.store)
    note_file((*path, "store"), store, problems, hint=", or run `sealgate vault init`")
    for field in ("passphrase_file", "key_file"):
        if (file := getattr(token, field)) is not None:
            note_file((*path, field), strict_toml.resolve(base_dir, file), problems, is_private=True)
    if token.wrapping_key is not None:
        uri = _uri((*path, "wrapping_key"), token.wrapping_key, problems)
        if uri is not None and uri.module_path is None:
            problems.add((*path, "wrapping_key"), "does not name the token's library; add ?module-path=/path/to/lib.so")
        elif uri is not None and not uri.objects.label:
            problems.add((*path, "wrapping_key"), "does not name the key; add object=LABEL before the question mark")
    elif token.environment:
        problems.add((*path, "environment"), "is for the library of a wrapping_key; remove it, or set wrapping_key")


def _note_pkcs11(
    token: Pkcs11TokenConfig, path: toml_lines.Path, base_dir: Path, problems: strict_toml.Problems
) -> None:
    uri = _uri((*path, "uri"), token.uri, problems)
    if uri is not None and token.module is None and uri.module_path is None and uri.module_name is None:
        problems.add(path, "no library is named; set module, or put ?module-path=/path/to/lib.so into the uri")
    if uri is not None and uri.module_path is not None:
        note_file((*path, "uri"), Path(uri.module_path), problems)
    if token.module is not None:
        note_file((*path, "module"), strict_toml.resolve(base_dir, token.module), problems)
    pins = [token.pin_file, token.pin_credential, token.pin_env]
    in_config = sum(pin is not None for pin in pins) + token.pin_prompt
    if in_config > 1:
        problems.add(path, "set only one of pin_file, pin_credential, pin_env and pin_prompt = true")
    elif in_config and uri is not None and uri.pin_source is not None:
        problems.add(path, "the uri has a pin-source already; leave either that or the pin_ setting out")
    if token.pin_file is not None:
        note_file((*path, "pin_file"), strict_toml.resolve(base_dir, token.pin_file), problems, is_private=True)
    if token.retry_min_s > token.retry_max_s:
        problems.add((*path, "retry_min_s"), "is longer than retry_max_s; lower it or raise that")


def _note_simulated(token: SimulatedTokenConfig, path: toml_lines.Path, problems: strict_toml.Problems) -> None:
    if not token.i_know_this_is_not_an_hsm:
        problems.add(path, NOT_AN_HSM)
    if None not in (token.latency_ms, token.latency_p99_ms) and (token.latency_ms or 0) > (token.latency_p99_ms or 0):
        problems.add((*path, "latency_p99_ms"), "is less than latency_ms, the median; raise it or lower that")


def _uri(field: toml_lines.Path, text: str, problems: strict_toml.Problems) -> Pkcs11Uri | None:
    try:
        return parse_uri(text)
    except UriProblem as problem:
        problems.add(field, str(problem))
        return None


def note_file(
    field: toml_lines.Path, path: Path, problems: strict_toml.Problems, *, is_private: bool = False, hint: str = ""
) -> None:
    """Notes where a file can't be read or, if it is to be private, where others may read it."""
    if sentence := _unreadable(path):
        problems.add(field, sentence + hint)
    elif is_private and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        problems.add(field, f"others may read {path}; run `chmod 600 {path}`")


def _unreadable(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL byte
        return f"{path} does not exist; correct the path"
    except OSError as error:
        return f"{path} can't be looked at: {error.strerror}; correct the path, or the modes of its folders"
    if not stat.S_ISREG(mode):
        return f"{path} is not a file; correct the path"
    if not os.access(path, os.R_OK):
        return f"{path} can't be read by this user; change its owner or mode"
    return None
