"""`sealgate vault`: makes the encrypted store that nodes keep keys in. Secrets never come from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from hsm.store.master_key import Unlock

vault_app = typer.Typer(no_args_is_help=True, help="The encrypted key store of nodes.")


@vault_app.callback()
def _group() -> None:
    """The encrypted key store of nodes."""


@vault_app.command("init")
def init_vault(
    store: Annotated[
        Path, typer.Option("--store", help="File to make, mode 0600, in a folder that only you write to.")
    ],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="File whose first line is the passphrase; mode 0600.")
    ] = None,
    key_file: Annotated[Path | None, typer.Option("--key-file", help="File of 32 random bytes; mode 0600.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Make the key file first.")] = False,
) -> None:
    """Make a new, empty vault. Without a file it asks for a passphrase at the terminal."""
    from hsm.backends.vault import VaultError
    from hsm.shared.hardening import forbid_core_files
    from hsm.store.errors import StoreError
    from hsm.store.files import check_private_folder
    from hsm.store.store import Store

    _check_options(passphrase_file, key_file, generate)
    forbid_core_files()
    try:
        check_private_folder(store.parent)  # before a key file is made that would be left behind
        if os.path.lexists(store):
            raise _Refused(f"{store} exists already; a store is never overwritten")
        unlock = _unlock(passphrase_file, key_file, generate)
        Store.create(store, unlock).close()
    except (VaultError, StoreError, _Refused) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    if generate:
        typer.echo(f"made  {key_file} (keep a copy in a safe place: without it the keys are lost)")
    typer.echo(f"made  {store}")


class _Refused(Exception):
    """A sentence for the user."""


def _check_options(passphrase_file: Path | None, key_file: Path | None, generate: bool) -> None:
    if passphrase_file is not None and key_file is not None:
        raise typer.BadParameter("give --passphrase-file or --key-file, not both")
    if generate and key_file is None:
        raise typer.BadParameter("--generate makes a key file; say where with --key-file")


def _unlock(passphrase_file: Path | None, key_file: Path | None, generate: bool) -> Unlock:
    from hsm.store import master_key

    if key_file is not None:
        return master_key.create_key_file(key_file) if generate else master_key.key_file(key_file)
    if passphrase_file is not None:
        return master_key.passphrase_from_file(passphrase_file)
    if not _is_terminal():
        raise _Refused("give --passphrase-file or --key-file; a passphrase can be typed at a terminal only")
    typed: str = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True)
    return master_key.passphrase(typed.encode())


def _is_terminal() -> bool:
    return sys.stdin.isatty()
