"""`sealgate node`: run a node, check its config. Turns errors into one clear sentence and an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

node_app = typer.Typer(
    name="node", help="Run and check HSM nodes.", no_args_is_help=True, pretty_exceptions_show_locals=False
)

EXIT_FAILED = 1

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The node's config file.")]


@node_app.command("run")
def run_node(config: ConfigOption = Path("node.toml")) -> None:
    """Serve signatures until SIGTERM or SIGINT, then finish what is in flight."""
    with _clear_errors():
        from hsm.node.app import run

        run(config)


@node_app.command("check")
def check_node(config: ConfigOption = Path("node.toml")) -> None:
    """Look whether a config and the files it names are right, the vault included. Starts nothing."""
    with _clear_errors():
        from hsm.node.check import check

        summary = check(config)
    typer.echo(summary)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Shows expected errors as sentences; a traceback is for programming errors only."""
    from hsm.shared.exposition import ListenError
    from hsm.shared.strict_toml import ConfigError

    try:
        yield
    except (ConfigError, ListenError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except Exception as error:
        from hsm.node.factory import BackendProblem

        if not isinstance(error, BackendProblem):
            raise
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
