"""Gives a new set of shares to its people: each once, on the screen or in a file of mode 0600 for each."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hsm.cli.terminal import CLEAR_SCREEN

if TYPE_CHECKING:
    from hsm.store.shares import Deal, Share


@contextlib.contextmanager
def handed_out(deal: Deal, folder: Path | None, store: Path) -> Iterator[None]:
    """Hands the shares out, then runs what makes them open the vault; where that fails, files are removed again.

    Raises StoreError for a folder or file that is not private, or in the way.
    """
    made: list[Path] = []
    try:
        if folder is None:
            _show(deal, store)
        else:
            _write(deal, folder, store, made)
        yield
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        if folder is None:
            typer.echo("these shares open nothing: destroy them", err=True)
        raise
    for path in made:
        typer.echo(f"made  {path}")


def text_of(share: Share, deal: Deal, store: Path) -> str:
    """A share as it is printed or written: what it is, then its three lines."""
    from hsm.store.share_text import encode

    made = deal.share_set
    return (
        f"# Sealgate: share {share.index} of {made.count}, set {made.name}, made {datetime.now(UTC):%Y-%m-%d}"
        f" for {store.name}\n"
        f"# Any {made.threshold} of the {made.count} open the vault. Keep it secret, and apart from the others.\n"
        f"{encode(share)}\n"
    )


def _write(deal: Deal, folder: Path, store: Path, made: list[Path]) -> None:
    from hsm.store import files

    files.check_private_folder(folder)
    for share in deal.shares:
        path = folder / f"share-{deal.share_set.name}-{share.index}-of-{deal.share_set.count}.txt"
        files.create_private(path, text_of(share, deal, store).encode())
        made.append(path)


def _show(deal: Deal, store: Path) -> None:
    """One after the other: whoever reads a share sees no other one."""
    is_screen = sys.stdout.isatty() and sys.stdin.isatty()
    for share in deal.shares:
        typer.echo(text_of(share, deal, store))
        if is_screen:
            typer.prompt(
                f"Is share {share.index} written down? Enter clears the screen", default="", show_default=False
            )
            typer.echo(CLEAR_SCREEN, nl=False)
