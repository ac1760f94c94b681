"""`sealgate vault`: makes the encrypted store that nodes keep keys in, says and changes what opens it.

Secrets never come from the command line. What is asked at a terminal is in `vault_ways`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from hsm.cli.share_handout import handed_out
from hsm.cli.vault_ways import Refused, Way, new_deal, new_unlock, parse_size, present_unlock

vault_app = typer.Typer(
    no_args_is_help=True, help="The encrypted key store of nodes.", pretty_exceptions_show_locals=False
)

StoreOption = Annotated[Path, typer.Option("--store", help="The vault's file.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line is the passphrase; mode 0600.")
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="File of 32 random bytes; mode 0600.")]
Generate = Annotated[bool, typer.Option("--generate", help="Make the key file first.")]
Shares = Annotated[
    str | None, typer.Option("--shares", metavar="M/N", help="Make N shares, any M of which open the vault.")
]
ShareDir = Annotated[
    Path | None, typer.Option("--share-dir", help="Write the shares here, a file for each; else they are printed.")
]
WrappingKey = Annotated[
    str | None,
    typer.Option(
        "--wrapping-key",
        metavar="URI",
        help="PKCS#11 URI of a secret key in a token, made where missing: with token, object (its label), module-path"
        " and pin-source.",
    ),
]


@vault_app.callback()
def _group() -> None:
    """The encrypted key store of nodes."""


@vault_app.command("init")
def init_vault(
    store: Annotated[
        Path, typer.Option("--store", help="File to make, mode 0600, in a folder that only you write to.")
    ],
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    generate: Generate = False,
    shares: Shares = None,
    share_dir: ShareDir = None,
    wrapping_key: WrappingKey = None,
) -> None:
    """Make a new, empty vault. Without any of the ways to open it, it asks for a passphrase at the terminal."""
    from hsm.store.files import check_private_folder
    from hsm.store.store import Store

    way = _new_way(passphrase_file, key_file, generate, shares, share_dir, wrapping_key)
    with _clear_errors():
        check_private_folder(store.parent)  # before a key file is made that would be left behind
        if os.path.lexists(store):
            raise Refused(f"{store} exists already; a store is never overwritten")
        deal = new_deal(way)
        unlock = new_unlock(way, deal, generate=generate)
        with handed_out(deal, share_dir, store) if deal is not None else nullcontext():
            Store.create(store, unlock).close()
    _tell_of_key_file(key_file if generate else None)
    typer.echo(f"made  {store}")


@vault_app.command("rewrap")
def rewrap_vault(
    store: StoreOption,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    generate: Generate = False,
    shares: Shares = None,
    share_dir: ShareDir = None,
    wrapping_key: WrappingKey = None,
    old_passphrase_file: Annotated[
        Path | None, typer.Option("--old-passphrase-file", help="What opens it now: a passphrase.")
    ] = None,
    old_key_file: Annotated[Path | None, typer.Option("--old-key-file", help="What opens it now: a key file.")] = None,
    old_share_file: Annotated[
        list[Path] | None, typer.Option("--old-share-file", help="What opens it now: shares; repeat it.")
    ] = None,
    old_wrapping_key: Annotated[
        str | None, typer.Option("--old-wrapping-key", metavar="URI", help="What opens it now: a token's key.")
    ] = None,
) -> None:
    """Change what opens a vault: new shares, another passphrase, an HSM. The old way opens it no longer.

    Keys stay as they are and nodes that run go on. Passphrases and shares that no option names are asked for.
    """
    from hsm.store.rewrapping import rewrap
    from hsm.store.store import Store

    way = _new_way(passphrase_file, key_file, generate, shares, share_dir, wrapping_key)
    old_way = Way(old_passphrase_file, old_key_file, tuple(old_share_file or ()), old_wrapping_key, prefix="--old-")
    old_way.check()
    with _clear_errors():
        before = Store.peek(store)
        old = present_unlock(old_way, before)
        Store.open(store, old).close()  # before anybody writes down shares that would open nothing
        deal = new_deal(way)
        new = new_unlock(way, deal, generate=generate)
        with handed_out(deal, share_dir, store) if deal is not None else nullcontext():
            rewrap(store, old, new)
        after = Store.peek(store)
    _tell_of_key_file(key_file if generate else None)
    typer.echo(f"{store} is now opened by {after.opened_by}, and no longer by {before.opened_by}")
    typer.echo("Old backups of the file still open in the old way: replace them. Change the config of its nodes.")


@vault_app.command("show")
def show_vault(store: StoreOption) -> None:
    """Say what opens a vault. Needs no secret."""
    from hsm.store.store import Store

    with _clear_errors():
        header = Store.peek(store)
    typer.echo(f"{store} is opened by {header.opened_by}")


def _new_way(
    passphrase_file: Path | None,
    key_file: Path | None,
    generate: bool,
    shares: str | None,
    share_dir: Path | None,
    wrapping_key: str | None,
) -> Way:
    way = Way(passphrase_file, key_file, wrapping_key=wrapping_key, shares=shares)
    way.check()
    if generate and key_file is None:
        raise typer.BadParameter("--generate makes a key file; say where with --key-file")
    if share_dir is not None and shares is None:
        raise typer.BadParameter("--share-dir is where shares are written; say how many with --shares M/N")
    if shares is not None:
        parse_size(shares)
    return way


def _tell_of_key_file(key_file: Path | None) -> None:
    if key_file is not None:
        typer.echo(f"made  {key_file} (keep a copy in a safe place: without it the keys are lost)")


@contextmanager
def _clear_errors() -> Iterator[None]:
    """No core file, and expected errors as one sentence."""
    from hsm.backends.vault import VaultError
    from hsm.shared.hardening import forbid_core_files
    from hsm.store.errors import StoreError

    forbid_core_files()
    try:
        yield
    except (VaultError, StoreError, Refused) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
