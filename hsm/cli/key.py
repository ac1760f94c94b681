"""`sealgate key`: make, list, certify, import and destroy keys of a running node, over its management socket."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hsm.cli.management_client import ManagementProblem, call, key_path, socket_of

key_app = typer.Typer(
    name="key", help="Manage the keys of a node.", no_args_is_help=True, pretty_exceptions_show_locals=False
)


class NewKeyType(StrEnum):
    """What a node can make; values as in `hsm.wire.schemes.KeyType`."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


EXIT_FAILED = 1
EXIT_USAGE = 2
WIDE = 160

SocketOption = Annotated[Path | None, typer.Option("--socket", help="The node's management socket.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The node's config; it names the socket.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's label or its SKI in hex.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: standard output.")]
SubjectOption = Annotated[str, typer.Option(help='Subject, such as "CN=www.example.com,O=Example".')]
NamesOption = Annotated[list[str] | None, typer.Option("--name", "-n", help="DNS name or IP address; one at least.")]


@key_app.command()
def generate(
    label: Annotated[str, typer.Argument(help="A name for the key.")],
    type_: Annotated[NewKeyType, typer.Option("--type", "-t", help="Kind and size.")] = NewKeyType.P256,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key inside the node. It can never be read out."""
    _show(_ask(socket, config, "POST", "/keys", {"type": type_.value, "label": label})["key"], as_json)


@key_app.command("list")
def list_keys(socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show all keys."""
    keys = _ask(socket, config, "GET", "/keys")["keys"]
    if as_json:
        typer.echo(json.dumps(keys, indent=2))
        return
    _print_table(keys)


@key_app.command()
def show(
    key: KeyArgument, socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show one key, with its public key."""
    _show(_ask(socket, config, "GET", key_path(key))["key"], as_json)


@key_app.command()
def csr(
    key: KeyArgument,
    subject: SubjectOption = "",
    names: NamesOption = None,
    out: OutOption = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a certificate signing request for a CA."""
    body = {"subject": subject, "names": names or []}
    _write(_ask(socket, config, "POST", key_path(key, "csr"), body)["pem"], out)


@key_app.command("self-sign")
def self_sign(
    key: KeyArgument,
    subject: SubjectOption = "",
    names: NamesOption = None,
    days: Annotated[int, typer.Option(min=1, max=397, help="How long it is valid.")] = 90,
    out: OutOption = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a certificate signed by the key itself."""
    body = {"subject": subject, "names": names or [], "days": days}
    _write(_ask(socket, config, "POST", key_path(key, "self-sign"), body)["pem"], out)


@key_app.command("import")
def import_key(
    label: Annotated[str, typer.Argument(help="A name for the key.")],
    file: Annotated[Path, typer.Argument(help='PEM file of the private key; "-" reads standard input.')],
    password_file: Annotated[Path | None, typer.Option(help="File whose first line is the PEM's password.")] = None,
    ask_password: Annotated[bool, typer.Option("--ask-password", help="Ask for the PEM's password.")] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in a private key from outside. It stays marked as imported: copies of it may exist."""
    from hsm.shared.hardening import forbid_core_files

    forbid_core_files()
    body: dict[str, Any] = {"label": label, "pem": _read_pem(file)}
    if password_file is not None:
        body["password"] = (_read(password_file).splitlines() or [""])[0]
    elif ask_password:
        body["password"] = typer.prompt("Password of the PEM", hide_input=True, err=True)
    _show(_ask(socket, config, "POST", "/keys/import", body)["key"], as_json)


@key_app.command()
def destroy(
    key: KeyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Really destroy it; there is no way back.")] = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy a key on all nodes that share the store, for ever."""
    if not yes:
        _fail(f"destroying {key!r} can't be undone; add --yes to do it", EXIT_USAGE)
    gone = _ask(socket, config, "DELETE", key_path(key))["key"]
    typer.echo(json.dumps(gone, indent=2) if as_json else f"destroyed {gone['label']} ({gone['ski']})")


def _ask(socket: Path | None, config: Path | None, method: str, path: str, body: object | None = None) -> Any:
    with _clear_errors():
        return call(socket_of(socket, config), method, path, body)


@contextmanager
def _clear_errors() -> Iterator[None]:
    from hsm.shared.strict_toml import ConfigError

    try:
        yield
    except (ManagementProblem, ConfigError) as error:
        _fail(str(error), EXIT_FAILED)


def _fail(sentence: str, status: int) -> None:
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


def _read_pem(file: Path) -> str:
    if str(file) != "-":
        return _read(file)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        _fail("standard input is not text; give the PEM of a private key", EXIT_FAILED)
        raise


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        _fail(f"can't read {file}: {reason}", EXIT_FAILED)
        raise


def _write(pem: str, out: Path | None) -> None:
    if out is None:
        typer.echo(pem, nl=False)
        return
    try:
        out.write_text(pem)
    except OSError as error:
        _fail(f"can't write {out}: {error.strerror}", EXIT_FAILED)


def _show(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(key, indent=2))
        return
    for field in ("label", "ski", "type", "created", "imported"):
        typer.echo(f"{field + ':':<10}{key[field] if field != 'imported' else _origin(key)}")
    typer.echo(key["public_key"], nl=False)


def _origin(key: dict[str, Any]) -> str:
    return "imported" if key["imported"] else "made here"


def _print_table(keys: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("Label", "Type", "Origin", "Created", "SKI"):
        table.add_column(heading, no_wrap=heading != "Label", overflow="fold")
    for key in keys:
        cells = (key["label"], key["type"], _origin(key), key["created"][:10], key["ski"])
        table.add_row(*(Text(cell) for cell in cells))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: nothing is to be cut.
        console = Console(width=WIDE)
    console.print(table if keys else "no keys; `sealgate key generate LABEL` makes one")
