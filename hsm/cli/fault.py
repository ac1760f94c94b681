"""`sealgate node fault`: switch the faults of simulated tokens while a node runs; `sealgate node profiles`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from hsm.cli.management_client import ManagementProblem, call, socket_of

EXIT_FAILED = 1
LEGEND = """Rates are those of one HSM and at most; latencies are those of a request that meets no other.
published: read in the source named. derived: worked out from such a figure. reported: the source named has the
figure, but it was not at hand when this was written. estimated: nobody publishes it."""

fault_app = typer.Typer(
    name="fault",
    help="Switch the faults of simulated tokens on and off.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


class Kind(StrEnum):
    """Values as in `hsm.backends.simulated.faults.FaultKind`."""

    SLOW = "slow"
    HANG = "hang"
    ERROR = "error"
    WRONG_SIGNATURE = "wrong-signature"
    LOST_KEY = "lost-key"
    CRASH = "crash"


TokenOption = Annotated[
    str | None, typer.Option("--token", help="The token's name; needed when the node has several simulated ones.")
]
SocketOption = Annotated[Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@fault_app.command("list")
def list_faults(socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show the simulated tokens and the faults that are on."""
    with _clear_errors():
        tokens = call(socket_of(socket, config), "GET", "/faults")["tokens"]
    if as_json:
        typer.echo(json.dumps(tokens, indent=2))
        return
    for token, faults in tokens.items():
        typer.echo("\n".join(f"{token}: {_line(fault)}" for fault in faults) or f"{token}: no faults")


@fault_app.command("set")
def set_fault(
    kind: Annotated[Kind, typer.Argument(help="What goes wrong.")],
    token: TokenOption = None,
    factor: Annotated[float | None, typer.Option(min=1, help="slow: how many times as long; default 10.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="error, wrong-signature: share of the signatures, 0 to 1; default 1."),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="error, wrong-signature, lost-key: pattern of labels; default: all keys.")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds after which it ends by itself; default: never, for a crash 10."),
    ] = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch a fault on; several may be on at once."""
    given = {"kind": kind.value, "factor": factor, "rate": rate, "key": key, "duration_s": duration}
    body = {field: value for field, value in given.items() if value is not None}
    with _clear_errors():
        where = socket_of(socket, config)
        name = token if token is not None else _only_token(where)
        fault = call(where, "POST", _path(name), body)["fault"]
    typer.echo(json.dumps(fault, indent=2) if as_json else f"{name}: {_line(fault)}")


@fault_app.command("clear")
def clear_faults(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names as `list` shows them; default: all.")
    ] = None,
    token: TokenOption = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Switch faults off."""
    with _clear_errors():
        where = socket_of(socket, config)
        name = token if token is not None else _only_token(where)
        query = f"?{urlencode([('name', fault) for fault in names])}" if names else ""
        cleared = call(where, "DELETE", _path(name) + query)["cleared"]
    if as_json:
        typer.echo(json.dumps(cleared, indent=2))
    else:
        typer.echo(f"{name}: cleared {', '.join(fault['name'] for fault in cleared) or 'nothing, no fault was on'}")


def show_profiles(as_json: JsonOption = False) -> None:
    """Show the devices that simulated tokens can imitate, with the source of each figure."""
    from hsm.backends.simulated.profiles import PROFILES

    if as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(list(PROFILES.values()))).decode())
        return
    typer.echo("\n\n".join(profile_table(profile) for profile in PROFILES.values()))
    typer.echo(f"\n{LEGEND}")


def profile_table(profile: Any) -> str:
    """One profile for people: a table of figures, then what they rest on."""
    sources: dict[str, int] = {}

    def mark(source: Any) -> str:
        text = f"{source.basis.value}: {source.says}" + (f" <{source.url}>" if source.url else "")
        return f"[{sources.setdefault(text, len(sources) + 1)}]"

    lines = [
        f"{profile.name}: {profile.title}",
        f"  at once {profile.concurrency} {mark(profile.concurrency_source)},"
        f" waiting in it {profile.queue} {mark(profile.queue_source)}",
        f"  {'KEY':<10} {'PER SECOND':>15} {'MEDIAN':>12} {'P99':>10}",
    ]
    for key in profile.keys:
        rate = f"{key.rate:g} {mark(key.rate_source)}"
        latency = f"{key.median_s * 1e3:.4g} ms"
        p99 = f"{key.p99_s * 1e3:.4g} ms"
        lines.append(f"  {key.type.value:<10} {rate:>15} {latency:>12} {p99:>10} {mark(key.latency_source)}")
    lines += [f"  [{number}] {text}" for text, number in sources.items()]
    return "\n".join(lines)


def _only_token(socket: Path) -> str:
    names = list(call(socket, "GET", "/faults")["tokens"])
    if len(names) != 1:
        raise ManagementProblem(f"which token? Give --token; this node has {', '.join(names)}")
    return str(names[0])


def _path(token: str) -> str:
    return f"/tokens/{quote(token, safe='')}/faults"


def _line(fault: dict[str, Any]) -> str:
    text: str = fault["kind"]
    if fault["kind"] == "slow":
        text += f" x{fault.get('factor', 10):g}"
    if "rate" in fault:
        text += f" rate {fault['rate']:g}"
    if "key" in fault:
        text += f" of {fault['key']}"
    text += f", on for {fault['since_s']:.1f} s"
    if "left_s" in fault:
        text += f", ends in {fault['left_s']:.1f} s"
    return text if fault["name"] == fault["kind"] else f"{text} (name {fault['name']})"


@contextmanager
def _clear_errors() -> Iterator[None]:
    from hsm.shared.strict_toml import ConfigError

    try:
        yield
    except (ConfigError, ManagementProblem) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_FAILED) from None
