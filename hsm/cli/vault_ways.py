"""The ways a vault is opened, as options of commands: from files, from a terminal, from an HSM. Shows nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hsm.cli.terminal import is_terminal, read_hidden

if TYPE_CHECKING:
    from hsm.store.collection import Collection
    from hsm.store.master_key import SharedSecret, Unlock, WrappedKey
    from hsm.store.shares import Deal

_SIZE = re.compile(r"([0-9]{1,3})/([0-9]{1,3})\Z", re.ASCII)
MAX_SHARE_FILE_BYTES = 4096
SHARE_QUESTION = "Share (hidden; in one line or several): "
MAX_MISTAKES = 10


class Refused(Exception):
    """A sentence for the user."""


@dataclass(frozen=True, slots=True)
class Way:
    """What the options say. None of it is secret: files, URIs and numbers only."""

    passphrase_file: Path | None = None
    key_file: Path | None = None
    share_files: Sequence[Path] = field(default=())
    wrapping_key: str | None = None
    shares: str | None = None
    """For a new way: "M/N"."""
    prefix: str = "--"
    """What its options begin with."""

    def check(self) -> None:
        """Raises typer.BadParameter where more than one way is named."""
        named = {
            "passphrase-file": self.passphrase_file,
            "key-file": self.key_file,
            "share-file": self.share_files,
            "shares": self.shares,
            "wrapping-key": self.wrapping_key,
        }
        given = [f"{self.prefix}{name}" for name, value in named.items() if value]
        if len(given) > 1:
            raise typer.BadParameter(f"give {given[0]} or {given[1]}, not both")


def parse_size(text: str) -> tuple[int, int]:
    """ "3/5" as (3, 5). Raises typer.BadParameter."""
    from hsm.store.shares import size_problem

    match = _SIZE.match(text)
    if match is None:
        raise typer.BadParameter("--shares takes M/N, such as 3/5: any 3 of 5 shares open the vault")
    threshold, count = int(match[1]), int(match[2])
    if problem := size_problem(threshold, count):
        raise typer.BadParameter(problem)
    return threshold, count


def new_deal(way: Way) -> Deal | None:
    """A new set of shares, where these are asked for."""
    if way.shares is None:
        return None
    from hsm.store.shares import deal

    return deal(*parse_size(way.shares))


def new_unlock(way: Way, deal: Deal | None, *, generate: bool = False) -> Unlock:
    """What opens a vault from now on; asks for a passphrase where nothing is named. Raises Refused, StoreError, ..."""
    from hsm.store import master_key

    if deal is not None:
        return master_key.SharedSecret(deal.secret, deal.share_set)
    if way.wrapping_key is not None:
        return _token_key(way.wrapping_key, make=True)
    if way.key_file is not None:
        if generate:
            return master_key.create_key_file(way.key_file)
        if not os.path.lexists(way.key_file):
            raise Refused(f"{way.key_file} does not exist; --generate makes it")
        return master_key.key_file(way.key_file)
    if way.passphrase_file is not None:
        return master_key.passphrase_from_file(way.passphrase_file)
    if not is_terminal():
        sentence = "a passphrase can be typed at a terminal only"
        raise Refused(f"give --passphrase-file, --key-file, --shares or --wrapping-key; {sentence}")
    typed: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    return master_key.passphrase(typed.encode())


def present_unlock(way: Way, header: WrappedKey) -> Unlock:
    """What opens an existing vault; asks for what its header wants and no option names. Raises Refused, StoreError."""
    from hsm.store import master_key

    if way.passphrase_file is not None:
        return master_key.passphrase_from_file(way.passphrase_file)
    if way.key_file is not None:
        return master_key.key_file(way.key_file)
    if way.wrapping_key is not None:
        return _token_key(way.wrapping_key, make=False)
    if header.share_set is not None:
        return _from_shares(way, header)
    if way.share_files:
        raise Refused(f"the vault is not opened by shares but by {header.opened_by}")
    if header.unlock == "passphrase" and is_terminal():
        typed: str = typer.prompt("Present passphrase", hide_input=True)
        return master_key.passphrase(typed.encode())
    option = {"passphrase": "passphrase-file", "key-file": "key-file", "pkcs11": "wrapping-key"}.get(header.unlock, "")
    raise Refused(f"the vault is opened by {header.opened_by}; name it with {way.prefix}{option}")


def read_share(path: Path) -> str:
    """The text of a share file; "-" is standard input. Raises StoreError, Refused."""
    from hsm.store import files

    try:
        if str(path) == "-":
            return typer.get_text_stream("stdin").read(MAX_SHARE_FILE_BYTES)
        return files.read_secret(path, MAX_SHARE_FILE_BYTES).decode()
    except UnicodeDecodeError:
        raise Refused(f"{path} is not text; is it a share?") from None


def ask_share(question: str = SHARE_QUESTION, *, option: str = "--share-file (or - for standard input)") -> str:
    """A share that somebody types; `option` names it else. Raises Refused where nobody can."""
    from hsm.store.share_text import is_complete

    if not is_terminal():
        raise Refused(f"a share can be typed at a terminal only; give {option}")
    text = read_hidden(question, is_complete)
    if not text.strip():
        raise Refused("no share was typed")
    return text


def _from_shares(way: Way, header: WrappedKey) -> SharedSecret:
    from hsm.store.collection import Collection
    from hsm.store.master_key import SharedSecret

    assert header.share_set is not None
    collection = Collection(header.share_set)
    for path in way.share_files:
        if (wrong := _take(collection, read_share(path))) is not None:
            raise Refused(f"{path}: {wrong}")
    if way.share_files and collection.missing:
        more = "1 more share is" if collection.missing == 1 else f"{collection.missing} more shares are"
        raise Refused(f"{more} needed: the vault is opened by {header.opened_by}")
    for _ in range(MAX_MISTAKES + header.share_set.threshold):
        if not collection.missing:
            return SharedSecret(collection.secret(), header.share_set)
        typer.echo(f"{collection.missing} more of the {header.opened_by.split(' of ', 1)[1]} needed", err=True)
        if (wrong := _take(collection, ask_share(option=f"{way.prefix}share-file, once for each"))) is not None:
            typer.echo(wrong, err=True)
    if collection.missing:
        raise Refused("too many wrong shares; nothing was changed")
    return SharedSecret(collection.secret(), header.share_set)


def _take(collection: Collection, text: str) -> str | None:
    """What is wrong with a share, or None."""
    from hsm.store.share_text import Wrong

    taken = collection.take_text(text, 0.0)
    return taken.sentence if isinstance(taken, Wrong) else None


def _token_key(uri: str, *, make: bool) -> Unlock:
    from hsm.backends.vault.wrapping_key import token_key

    # The library of whoever runs this command finds its configuration as it does for him.
    return token_key(uri, os.environ, make=make)
