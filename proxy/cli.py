"""The command `sealgate`: mounts every program's commands. Imports what is heavy within commands only.

That is more than quick starting: in the proxy, the OpenSSL provider must be installed before anything imports
`cryptography` (`proxy/tls/provider.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from certs.cli import certs_app
from hsm.cli.key import key_app
from hsm.cli.node import node_app
from hsm.cli.vault import vault_app
from proxy import __version__
from proxy.chaos.cli import chaos
from proxy.demo.cli import demo
from proxy.run.node_commands import DEFAULT_URL, proxy_node_app

EXIT_FAILED = 1
"""Something is wrong with what was asked, with a file, or with the system."""

DEFAULT_CONFIG = Path("proxy.toml")
ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The proxy's config file.")]

app = typer.Typer(
    name="sealgate",
    help="TLS offload reverse proxy whose private keys never leave an HSM cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
proxy_app = typer.Typer(name="proxy", help="Run and check the proxy.", no_args_is_help=True)
app.add_typer(proxy_app, name="proxy")
proxy_app.add_typer(proxy_node_app, name="node")
app.add_typer(node_app, name="node")
app.add_typer(vault_app, name="vault")
app.add_typer(key_app, name="key")
app.add_typer(certs_app, name="certs")
app.command("demo")(demo)
app.command("chaos")(chaos)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sealgate {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """TLS offload reverse proxy whose private keys never leave an HSM cluster."""


@proxy_app.command("run")
def run_proxy(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Serve clients until SIGTERM or SIGINT, then let them finish."""
    from hsm.shared.exposition import ListenError
    from proxy.run.prepare import StartError, prepare

    try:
        prepared = prepare(config)
        from proxy.run.master import Master  # after prepare: it imports cryptography

        master = Master(prepared, announce=lambda line: typer.echo(line))
    except (StartError, ListenError) as error:
        _fail(str(error))
    raise typer.Exit(master.run())


@proxy_app.command("check")
def check_proxy(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Look whether a config and every file it names are right, and print all that is wrong. Starts nothing."""
    from proxy.run.prepare import StartError, prepare

    try:
        prepared = prepare(config)
    except StartError as error:
        _fail(f"{error}\n{len(error.problems)} problem{'s' if len(error.problems) > 1 else ''} found")
    for warning in prepared.warnings:
        typer.echo(f"warning: {warning}", err=True)
    parsed, keys = prepared.config, prepared.contexts.site_keys
    discovery = f", {len(parsed.discovery)} discovery sources" if parsed.discovery else ""
    typer.echo(
        f"{config}: ok: {len(parsed.sites)} sites with {len(keys)} keys, {len(parsed.listeners)} listeners, "
        f"{len(parsed.upstreams)} upstreams, {len(parsed.nodes)} nodes{discovery}"
    )


@app.command("status")
def show_status(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The proxy's config; it names the address.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help=rf"Control address. \[default: {DEFAULT_URL}]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show how a running proxy is: workers, nodes, sessions. Exits with 1 when it is not ready."""
    from proxy.run.status import StatusError, address_in, fetch_status, print_status

    try:
        status = fetch_status(url or (address_in(config) if config else DEFAULT_URL))
    except StatusError as error:
        _fail(str(error))
    print_status(status, as_json=as_json)
    raise typer.Exit(0 if status.ready else EXIT_FAILED)


def _fail(text: str) -> None:
    for line in text.splitlines():
        typer.echo(line, err=True)
    raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Run one command. What no command expected becomes one line, unless SEALGATE_DEBUG asks for the traceback."""
    import os

    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Who read our output has gone (`| head`); nothing is wrong, and nobody is left to tell.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if os.environ.get("SEALGATE_DEBUG"):
            raise
        detail = f"{type(error).__name__}: {error}".splitlines()[0]
        typer.echo(f"sealgate: internal error: {detail} (SEALGATE_DEBUG=1 shows where)", err=True)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
