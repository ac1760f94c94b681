"""`sealgate node`: run, check, reload and look at nodes. Errors become one clear sentence and an exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from hsm.cli.fault import fault_app, show_profiles
from hsm.cli.management_client import ManagementProblem, call, socket_of
from hsm.cli.retry import retry_token
from hsm.cli.unseal import unseal_node

node_app = typer.Typer(
    name="node", help="Run and check HSM nodes.", no_args_is_help=True, pretty_exceptions_show_locals=False
)

EXIT_FAILED = 1
PIN_HINT = (
    "put the right PIN where the config says it is: the node finds it; `sealgate node retry {name}` asks it to look"
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", readable=False, help="The node's config file.")]


@node_app.command("run")
def run_node(config: ConfigOption = Path("node.toml")) -> None:
    """Serve signatures until SIGTERM or SIGINT, then finish what is in flight."""
    with _clear_errors():
        from hsm.node.app import run

        run(config)


@node_app.command("check")
def check_node(config: ConfigOption = Path("node.toml")) -> None:
    """Look whether a config and the files it names are right, and its tokens can be opened. Starts nothing."""
    with _clear_errors():
        from hsm.node.check import check
        from hsm.shared import logs

        logs.configure("sealgate-node", fmt="console", level="error")  # what a node would log, the summary says
        summary = check(config)
    typer.echo(summary)


@node_app.command("status")
def show_status(
    socket: Annotated[
        Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show how a running node is."""
    with _clear_errors():
        status = call(socket_of(socket, config), "GET", "/status")
    typer.echo(json.dumps(status, indent=2) if as_json else _status_lines(status))


@node_app.command("reload")
def reload_node(
    socket: Annotated[
        Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Have a running node read its config again: access rules, deadlines and the log's level take effect at once."""
    with _clear_errors():
        result = call(socket_of(socket, config), "POST", "/reload")
    typer.echo(json.dumps(result, indent=2) if as_json else _reload_lines(result))


def _reload_lines(result: dict[str, Any]) -> str:
    if not result["applied"] and not result["needs_restart"]:
        return "nothing changed: the config says what the node does already"
    lines = [f"in effect now: {', '.join(result['applied'])}" if result["applied"] else "nothing took effect"]
    if result["needs_restart"]:
        lines.append(f"waits for a restart of the node: {', '.join(result['needs_restart'])}")
    return "\n".join(lines)


node_app.add_typer(fault_app)
node_app.command("retry")(retry_token)
node_app.command("profiles")(show_profiles)
node_app.command("unseal")(unseal_node)


def _status_lines(status: dict[str, Any]) -> str:
    state = "draining" if status["is_draining"] else "ready" if status["is_ready"] else "not ready"
    if status.get("sealed"):
        state = f"sealed ({', '.join(status['sealed'])}): give its shares with `sealgate node unseal`"
    lines = [
        f"{status['name']} {status['version']}: {state}, up {status['uptime_s']:.0f} s",
        f"keys {status['keys']}",
        f"connections {status['connections']} of {status['connections_limit']}",
    ]
    for token in status["tokens"]:
        lines.append(f"token {token['name']} ({token['kind']}): {_words(token['state'])}, keys {token['keys']}")
        lines += [f"  {line}" for line in _detail_lines(token["details"])]
        if token["state"] == "pin_refused":
            lines.append(f"  {PIN_HINT.format(name=token['name'])}")
        lines += [f"  {_lane_line(name, lane)}" for name, lane in token["lanes"].items()]
    return "\n".join(lines)


def _detail_lines(details: dict[str, Any]) -> Iterator[str]:
    """What a token says of itself: a warning first, an HSM's name and its process, what a simulated one is told."""
    if "warning" in details:
        yield details["warning"]
    if details.get("problem") and details["problem"] not in details.get("warning", ""):
        yield f"last problem: {details['problem']}"
    if "serial" in details:
        yield f"token {details['label']!r}, serial {details['serial']}, {details['library']}"
    if "workers_started" in details:
        worker = f"worker {details['worker_pid']}" if details["worker_pid"] else "no worker now"
        yield (
            f"{worker}; workers started {details['workers_started']}, openings {details['openings']},"
            f" crashes {details['crashes']}, hangs {details['hangs']}"
        )
    for sentence in details.get("left_out", ()):
        yield f"left out: {sentence}"
    if "profile" in details:
        yield f"profile {details['profile']}; faults on: {', '.join(details['faults']) or 'none'}"


def _words(state: str) -> str:
    return state.replace("_", " ")


def _lane_line(name: str, lane: dict[str, Any]) -> str:
    return (
        f"{name}: {lane['in_flight']} of {lane['places']} signing, {lane['abandoned']} of them abandoned;"
        f" {lane['queued']} of {lane['queue_limit']} waiting; {lane['service_s'] * 1e6:.0f} us per signature"
    )


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Shows expected errors as sentences; a traceback is for programming errors only."""
    from hsm.shared.exposition import ListenError
    from hsm.shared.strict_toml import ConfigError

    try:
        yield
    except (ConfigError, ListenError, ManagementProblem) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
    except Exception as error:
        from hsm.node.opening.opened import TokenProblem

        if not isinstance(error, TokenProblem):
            raise
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
