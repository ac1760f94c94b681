"""`sealgate node unseal`: gives one person's share to a node whose vault waits for its shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hsm.cli.management_client import ManagementProblem, call, socket_of
from hsm.cli.vault_ways import Refused, ask_share, read_share

EXIT_FAILED = 1


def unseal_node(
    socket: Annotated[
        Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
    ] = None,
    share_file: Annotated[
        list[Path] | None,
        typer.Option("--share-file", help="File of one share, or -; repeat it. Else it is asked for."),
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only show which vaults wait, and for what.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Have the node forget the shares it was given.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Give a share to a node that started sealed. A wrong share is named, and costs nothing."""
    from hsm.shared.hardening import forbid_core_files
    from hsm.store.errors import StoreError

    forbid_core_files()
    try:
        at = socket_of(socket, config)
        if status or forget:
            _print_state(call(at, "DELETE" if forget else "GET", "/unseal"), as_json)
            return
        if not share_file:
            # People see what they are asked for; what the command prints stays its answer.
            for line in _lines(call(at, "GET", "/unseal")):
                typer.echo(line, err=True)
        for text in [read_share(path) for path in share_file] if share_file else [ask_share()]:
            answer = call(at, "POST", "/unseal", {"share": text})
            typer.echo(json.dumps(answer) if as_json else answer["sentence"])
    except (ManagementProblem, StoreError, Refused) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None


def _print_state(state: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(state["sealed"], indent=2))
    elif not state["sealed"]:
        typer.echo("nothing is sealed here: no vault of this node waits for shares")
    else:
        typer.echo("\n".join(_lines(state)))


def _lines(state: dict[str, Any]) -> list[str]:
    """One for each vault that waits."""
    return [
        f"vault {vault['token']!r}: {vault['needed']} of {vault['of']} shares of set {vault['set']} open it;"
        f" given so far: {', '.join(str(index) for index in vault['have']) or 'none'}"
        for vault in state["sealed"]
    ]
