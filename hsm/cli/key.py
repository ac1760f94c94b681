"""`sealgate key`: the life of the keys of a running node, over its management socket."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlencode

import typer

from hsm.cli.key_options import (
    ConfigOption,
    DaysValidOption,
    InactiveOption,
    JsonOption,
    KeyArgument,
    MaxRateOption,
    NamesOption,
    NewKeyType,
    NotAfterOption,
    NotBeforeOption,
    OutOption,
    PurposeOption,
    SchemesOption,
    SocketOption,
    SubjectOption,
    TokenOption,
    attributes_from,
)
from hsm.cli.key_output import key_details, key_table, time_of
from hsm.cli.management_client import ManagementProblem, call, key_path, socket_of
from hsm.cli.times import TextProblem, parse_duration, shown_duration, shown_time

key_app = typer.Typer(
    name="key", help="Manage the keys of a node.", no_args_is_help=True, pretty_exceptions_show_locals=False
)

EXIT_FAILED = 1
EXIT_USAGE = 2


@key_app.command()
def generate(
    label: Annotated[str, typer.Argument(help="A name for the key.")],
    type_: Annotated[NewKeyType, typer.Option("--type", "-t", help="Kind and size.")] = NewKeyType.P256,
    token: TokenOption = "",
    purpose: PurposeOption = None,
    schemes: SchemesOption = None,
    not_before: NotBeforeOption = None,
    not_after: NotAfterOption = None,
    days_valid: DaysValidOption = None,
    max_rate: MaxRateOption = None,
    inactive: InactiveOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key inside a token. It can never be read out."""
    with _clear_errors():
        attributes = attributes_from(purpose, schemes, not_before, not_after, days_valid, max_rate)
    body = {"type": type_.value, "label": label, "token": token, "active": not inactive, **attributes}
    _show(_ask(socket, config, "POST", "/keys", body)["key"], as_json)


@key_app.command("list")
def list_keys(
    token: TokenOption = "", socket: SocketOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Show all keys, of all tokens or of one."""
    answer = _ask(socket, config, "GET", _at("/keys", token))
    keys, unavailable = answer["keys"], answer["unavailable"]
    if as_json:
        _print_json(keys)
    elif keys:
        is_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if is_terminal else None
        is_coloured = is_terminal and not os.environ.get("NO_COLOR")
        shown = key_table(keys, datetime.now(UTC), width=width, is_coloured=is_coloured)
        typer.echo(shown, color=is_coloured)
    elif not unavailable:
        typer.echo("no keys; `sealgate key generate LABEL` makes one")
    for away in unavailable:
        typer.echo(f"the keys of token {away['token']!r} can't be listed: {away['error']}", err=True)
    if unavailable:
        raise typer.Exit(EXIT_FAILED)


@key_app.command()
def show(
    key: KeyArgument,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one key, with its public key."""
    _show(_ask(socket, config, "GET", _at(key_path(key), token))["key"], as_json)


@key_app.command()
def csr(
    key: KeyArgument,
    subject: SubjectOption = "",
    names: NamesOption = None,
    out: OutOption = None,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a certificate signing request for a CA."""
    body = {"subject": subject, "names": names or []}
    _check_out(out)
    _write(_ask(socket, config, "POST", _at(key_path(key, "csr"), token), body), out, as_json)


@key_app.command("self-sign")
def self_sign(
    key: KeyArgument,
    subject: SubjectOption = "",
    names: NamesOption = None,
    days: Annotated[int, typer.Option(min=1, help="How long it is valid; 397 at most for a server.")] = 90,
    out: OutOption = None,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a certificate signed by the key itself."""
    body = {"subject": subject, "names": names or [], "days": days}
    _check_out(out)
    _write(_ask(socket, config, "POST", _at(key_path(key, "self-sign"), token), body), out, as_json)


@key_app.command("import")
def import_key(
    label: Annotated[str, typer.Argument(help="A name for the key.")],
    file: Annotated[Path, typer.Argument(help='PEM file of the private key; "-" reads standard input.')],
    password_file: Annotated[Path | None, typer.Option(help="File whose first line is the PEM's password.")] = None,
    ask_password: Annotated[bool, typer.Option("--ask-password", help="Ask for the PEM's password.")] = False,
    token: TokenOption = "",
    purpose: PurposeOption = None,
    schemes: SchemesOption = None,
    not_before: NotBeforeOption = None,
    not_after: NotAfterOption = None,
    days_valid: DaysValidOption = None,
    max_rate: MaxRateOption = None,
    inactive: InactiveOption = False,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take in a private key from outside. It stays marked as imported: copies of it may exist."""
    from hsm.shared.hardening import forbid_core_files

    forbid_core_files()
    with _clear_errors():
        attributes = attributes_from(purpose, schemes, not_before, not_after, days_valid, max_rate)
    body: dict[str, Any] = {"label": label, "token": token, "active": not inactive, **attributes}
    body["pem"] = _read_pem(file)
    if password_file is not None:
        body["password"] = (_read(password_file).splitlines() or [""])[0]
    elif ask_password:
        body["password"] = typer.prompt("Password of the PEM", hide_input=True, err=True)
    elif "ENCRYPTED" in body["pem"]:
        _fail(f"the key in {file} needs a password; give --password-file or --ask-password", EXIT_FAILED)
    _show(_ask(socket, config, "POST", "/keys/import", body)["key"], as_json)


@key_app.command("set")
def set_attributes(
    key: KeyArgument,
    token: TokenOption = "",
    purpose: PurposeOption = None,
    schemes: SchemesOption = None,
    not_before: NotBeforeOption = None,
    not_after: NotAfterOption = None,
    days_valid: DaysValidOption = None,
    max_rate: MaxRateOption = None,
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a key may do. "all" as scheme and "none" as time or rate take a limit away."""
    with _clear_errors():
        body = attributes_from(purpose, schemes, not_before, not_after, days_valid, max_rate)
    if not body:
        _fail("say what is to be changed; `sealgate key set --help` tells what can be", EXIT_USAGE)
    _show(_ask(socket, config, "PATCH", _at(key_path(key), token), body)["key"], as_json)


@key_app.command()
def activate(
    key: KeyArgument,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key sign for clients; takes back a retirement, a rotation and a destruction."""
    changed = _ask(socket, config, "POST", _at(key_path(key, "activate"), token))["key"]
    _say(f"{changed['label']} is active", changed, as_json)


@key_app.command()
def retire(
    key: KeyArgument,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a key sign for clients no more; it can be activated again."""
    changed = _ask(socket, config, "POST", _at(key_path(key, "retire"), token))["key"]
    _say(f"{changed['label']} is retired; `sealgate key activate` takes that back", changed, as_json)


@key_app.command()
def rotate(
    key: KeyArgument,
    subject: SubjectOption = "",
    names: NamesOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the certificate request; default: standard output.")
    ] = None,
    quiet: Annotated[
        str | None,
        typer.Option(help="The old key retires when it was not used for so long, 15s at least. Default: 10m or more."),
    ] = None,
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key's successor and a request for its certificate; the old key retires when the new one took over."""
    with _clear_errors():
        quiet_s = _quiet_s(quiet)
    _check_out(out)
    body = {"subject": subject, "names": names or [], "quiet_s": quiet_s}
    done = _ask(socket, config, "POST", _at(key_path(key, "rotate"), token), body)
    old, successor = done["key"]["label"], done["successor"]["label"]
    span = shown_duration(timedelta(seconds=done["key"]["quiet_s"]))
    if not as_json:
        # Not to standard output, which may be the request's way to the CA.
        typer.echo(f"made {successor} ({done['successor']['ski']}) to take the place of {old}", err=True)
        todo = f"let access rules allow {successor}, have its request certified, give proxies the certificate"
        typer.echo(f"next: {todo} in place of {old}'s; {old} retires {span} after its last use", err=True)
    _write(done, out, as_json)


@key_app.command()
def destroy(
    key: KeyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Really do it: afterwards there is no way back.")] = False,
    grace: Annotated[
        str, typer.Option(help="Until then it can be taken back, such as 12h; 0 destroys at once.")
    ] = "7d",
    token: TokenOption = "",
    socket: SocketOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy a key for ever, after a grace period in which it does not sign and `activate` takes it back."""
    from hsm.backends.lifecycle import MAX_GRACE

    with _clear_errors():
        span = parse_duration(grace, "--grace", least=timedelta(0), most=MAX_GRACE)
    if not yes:
        when = f"after {shown_duration(span)}" if span else "at all"
        _fail(f"{key!r} would sign no more, and destroying it can't be undone {when}; add --yes to do it", EXIT_USAGE)
    body = {"grace_s": span.total_seconds()}
    changed = _ask(socket, config, "POST", _at(key_path(key, "destroy"), token), body)["key"]
    label, end = changed["label"], time_of(changed["destroy_at"])
    if not span or end is None:
        return _say(f"destroyed {label} ({changed['ski']})", changed, as_json)
    sentence = f"{label} signs no more and is destroyed at {shown_time(end)}; `sealgate key activate` takes that back"
    return _say(sentence, changed, as_json)


def _quiet_s(quiet: str | None) -> float | None:
    from hsm.backends.lifecycle import MIN_QUIET_S

    if quiet is None:
        return None
    least = timedelta(seconds=MIN_QUIET_S)
    return parse_duration(quiet, "--quiet", least=least, most=timedelta(days=365)).total_seconds()


def _at(path: str, token: str) -> str:
    return f"{path}?{urlencode({'token': token})}" if token else path


def _ask(socket: Path | None, config: Path | None, method: str, path: str, body: object | None = None) -> Any:
    with _clear_errors():
        return call(socket_of(socket, config), method, path, body)


@contextmanager
def _clear_errors() -> Iterator[None]:
    from hsm.shared.strict_toml import ConfigError

    try:
        yield
    except TextProblem as problem:
        _fail(str(problem), EXIT_USAGE)
    except (ManagementProblem, ConfigError) as error:
        _fail(str(error), EXIT_FAILED)


def _fail(sentence: str, status: int) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


def _read_pem(file: Path) -> str:
    if str(file) != "-":
        return _read(file)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        _fail("standard input is not text; give the PEM of a private key", EXIT_FAILED)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        _fail(f"can't read {file}: {reason}", EXIT_FAILED)


def _check_out(out: Path | None) -> None:
    """Before anything is done: what is made must have a place to go."""
    if out is None:
        return
    if out.is_dir():
        _fail(f"can't write {out}: it is a folder", EXIT_FAILED)
    if not os.access(out if out.exists() else out.parent, os.W_OK):
        reason = "this user may not" if out.parent.is_dir() else f"there is no folder {out.parent}"
        _fail(f"can't write {out}: {reason}; nothing was done", EXIT_FAILED)


def _write(answer: dict[str, Any], out: Path | None, as_json: bool) -> None:
    """The PEM of an answer to a file or standard output; as JSON the whole answer to standard output."""
    if as_json:
        _print_json(answer)
    if out is None:
        typer.echo("" if as_json else answer["pem"], nl=False)
        return
    try:
        out.write_text(answer["pem"])
    except OSError as error:
        _fail(f"can't write {out}: {error.strerror}", EXIT_FAILED)
    if not as_json:
        typer.echo(f"made  {out}")


def _say(sentence: str, key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(key)
    else:
        typer.echo(sentence)


def _show(key: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(key)
    else:
        typer.echo(key_details(key, datetime.now(UTC)))


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
