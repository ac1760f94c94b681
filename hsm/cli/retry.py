"""`sealgate node retry`: have a token opened now that is away, also with a PIN that it refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from hsm.cli.management_client import ManagementProblem, call, socket_of


def retry_token(
    token: Annotated[str, typer.Argument(help="Name of the token in the node's config.")],
    socket: Annotated[
        Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Open a token that is away now, without the pause. A PIN that it refused is tried once more: mind its limit."""
    from hsm.shared.strict_toml import ConfigError

    try:
        answer = call(socket_of(socket, config), "POST", f"/tokens/{quote(token, safe='')}/retry")
    except (ConfigError, ManagementProblem) as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(1) from None
    typer.echo(json.dumps(answer, indent=2) if as_json else f"{answer['token']}: {answer['state'].replace('_', ' ')}")
