"""`sealgate proxy node`: drain, disable and enable nodes of a running proxy. Errors become one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

EXIT_FAILED = 1
DEFAULT_URL = "http://127.0.0.1:9443"
DEFAULT_WAIT_S = 5.0

proxy_node_app = typer.Typer(
    name="node", help="Drain, disable and enable nodes of a running proxy.", no_args_is_help=True
)
NameArgument = Annotated[str, typer.Argument(help="The node's name in the proxy's config.", show_default=False)]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="The proxy's config, to find it.", show_default=False)
]
UrlOption = Annotated[str, typer.Option("--url", help="Control address, to find the proxy.")]
SocketOption = Annotated[Path | None, typer.Option("--socket", help="The proxy's control socket.", show_default=False)]
ForceOption = Annotated[bool, typer.Option("--force", help="Also where no other node signs for some site then.")]
WaitOption = Annotated[
    float, typer.Option("--wait", min=0, max=60, help="Seconds to wait until nothing is under way there.")
]


@proxy_node_app.command("enable")
def enable(
    name: NameArgument, config: ConfigOption = None, url: UrlOption = DEFAULT_URL, socket: SocketOption = None
) -> None:
    """Give a node jobs again: at once where its links are up, after a good probe otherwise."""
    _ask(name, "enabled", config, url, socket)


@proxy_node_app.command("drain")
def drain(
    name: NameArgument,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
    socket: SocketOption = None,
    force: ForceOption = False,
    wait: WaitOption = DEFAULT_WAIT_S,
) -> None:
    """Give a node no new jobs. Its links and probes stay, so that it is back at once when it is enabled."""
    _ask(name, "draining", config, url, socket, force=force, wait_s=wait)


@proxy_node_app.command("disable")
def disable(
    name: NameArgument,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
    socket: SocketOption = None,
    force: ForceOption = False,
    wait: WaitOption = DEFAULT_WAIT_S,
) -> None:
    """Have nothing to do with a node: no jobs, no probes, no links."""
    _ask(name, "disabled", config, url, socket, force=force, wait_s=wait)


@proxy_node_app.command("list")
def list_all(
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
    socket: SocketOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show the nodes of a running proxy, and what is asked of them."""
    import json

    from proxy.run.admin_client import AdminProblem, list_nodes, socket_of
    from proxy.run.status_tables import print_nodes

    try:
        nodes = list_nodes(socket_of(socket, config, url))
    except AdminProblem as error:
        _fail(str(error))
    if as_json:
        typer.echo(json.dumps(nodes, indent=2))
    else:
        print_nodes(nodes)


def _ask(
    name: str, state: str, config: Path | None, url: str, socket: Path | None, *, force: bool = False, wait_s: float = 0
) -> None:
    from proxy.run.admin_client import AdminProblem, set_state, socket_of

    try:
        answer = set_state(socket_of(socket, config, url), name, state, force=force, wait_s=wait_s)
    except AdminProblem as error:
        _fail(str(error))
    typer.echo(told_sentence(answer))
    problem = left_sentence(answer, wait_s)
    if problem:
        _fail(problem)


def told_sentence(answer: dict[str, Any]) -> str:
    """What has changed."""
    was = "already" if answer["before"] == answer["state"] else f"was {answer['before']}"
    workers = len(answer["told"])
    return f"{answer['node']}: {answer['state']} ({was}) at {workers} worker{'' if workers == 1 else 's'}"


def left_sentence(answer: dict[str, Any], wait_s: float) -> str:
    """What is not done yet; "" where all is."""
    if answer["not_told"]:
        return f"not heard by {', '.join(answer['not_told'])} yet: too busy, or stuck; `sealgate status` shows more"
    if answer["state"] != "enabled" and answer["in_flight"]:
        return f"{answer['in_flight']} signatures are under way there still, after {wait_s:g} s"
    return ""


def _fail(text: str) -> NoReturn:
    for line in text.splitlines():
        typer.echo(line, err=True)
    raise typer.Exit(EXIT_FAILED)
