"""The options of `sealgate key`, and what they say of a key as the management API wants it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hsm.backends.attributes import Purpose
from hsm.cli.times import TextProblem, parse_time, shown_time

ALL, NONE = "all", "none"


class NewKeyType(StrEnum):
    """What a node can make; values as in `hsm.wire.schemes.KeyType`."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    ED25519 = "ed25519"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"


SocketOption = Annotated[Path | None, typer.Option("--socket", readable=False, help="The node's management socket.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", readable=False, help="The node's config, for its socket; default: node.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="The key's label or its SKI in hex.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: standard output.")]
SubjectOption = Annotated[str, typer.Option(help='Subject, such as "CN=www.example.com,O=Example".')]
NamesOption = Annotated[
    list[str] | None, typer.Option("--name", "-n", help="DNS name or IP address; a server's key needs one at least.")
]
TokenOption = Annotated[str, typer.Option("--token", help="The token, where the node has several.", show_default=False)]
PurposeOption = Annotated[
    Purpose | None, typer.Option("--purpose", help="What it signs; tls-server, if nothing is said.")
]
SchemesOption = Annotated[
    list[str] | None,
    typer.Option("--scheme", help="A scheme it may sign with, such as ecdsa_sha256; may be repeated. Default: all."),
]
NotBeforeOption = Annotated[
    str | None, typer.Option("--not-before", metavar="TIME", help="It signs from then on, such as 2030-01-31.")
]
NotAfterOption = Annotated[str | None, typer.Option("--not-after", metavar="TIME", help="It signs until then.")]
DaysValidOption = Annotated[
    int | None, typer.Option("--days-valid", min=1, max=36500, help="It signs for so long, from --not-before or now.")
]
MaxRateOption = Annotated[
    str | None, typer.Option("--max-rate", metavar="NUMBER", help="Signatures per second by each node, at most.")
]
InactiveOption = Annotated[
    bool, typer.Option("--inactive", help="It does not sign for clients before it is activated.")
]


def attributes_from(
    purpose: Purpose | None,
    schemes: list[str] | None,
    not_before: str | None,
    not_after: str | None,
    days_valid: int | None,
    max_rate: str | None,
) -> dict[str, Any]:
    """What was said, and nothing else; "none" and "all" take limits away. Raises TextProblem."""
    if not_after is not None and days_valid is not None:
        raise TextProblem("give either --not-after or --days-valid")
    said: dict[str, Any] = {}
    if purpose is not None:
        said["purpose"] = purpose.value
    if schemes:
        said["schemes"] = [] if schemes == [ALL] else schemes
    if not_before is not None:
        said["not_before"] = _time(not_before)
    if not_after is not None:
        said["not_after"] = _time(not_after)
    if days_valid is not None:
        begin = parse_time(not_before) if not_before not in (None, NONE) else datetime.now(UTC).replace(microsecond=0)
        said["not_after"] = (begin + timedelta(days=days_valid)).isoformat()
    _refuse_past(said.get("not_after"))
    if max_rate is not None:
        said["max_rate"] = None if max_rate == NONE else _rate(max_rate)
    return said


def _refuse_past(not_after: str | None) -> None:
    """A year that was mistyped would stop a site; who means it has a command for that."""
    if not_after is not None and datetime.fromisoformat(not_after) <= datetime.now(UTC):
        end = shown_time(datetime.fromisoformat(not_after))
        raise TextProblem(f"{end} is past, so the key would not sign at all; if you mean that: `sealgate key retire`")


def _time(text: str) -> str | None:
    return None if text == NONE else parse_time(text).isoformat()


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise TextProblem(f"{text!r} is no rate; write a number of signatures per second, or none")
    return rate
