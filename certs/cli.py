"""`sealgate certs`: makes a development PKI. Imports what it needs within its commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

certs_app = typer.Typer(no_args_is_help=True, help="Certificates for development and tests.")


@certs_app.callback()
def _group() -> None:
    """Certificates for development and tests."""


@certs_app.command("dev")
def make_dev_pki(
    folder: Annotated[Path, typer.Option("--dir", help="Folder to make, mode 0700.")],
    site: Annotated[list[str] | None, typer.Option("--site", help="Site to certify; may be repeated.")] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=100, help="How many node identities.")] = 3,
    key_type: Annotated[
        list[str] | None,
        typer.Option("--key-type", help="Key type of the site certificates; may be repeated. p256 and rsa-2048."),
    ] = None,
) -> None:
    """Make a CA, identities of nodes and proxy, a vault, and site certificates whose keys never leave the vault.

    Running it again keeps what is still valid. For development only: the CA's key lies in the folder.
    """
    from certs.pki import DevPkiSpec, PkiError, create_dev_pki
    from hsm.shared.hardening import forbid_core_files
    from hsm.wire.schemes import KeyType

    forbid_core_files()
    try:
        types = tuple(KeyType(name) for name in key_type or ("p256", "rsa-2048"))
    except ValueError:
        known = ", ".join(type_.value for type_ in KeyType if type_ is not KeyType.RSA_OTHER)
        raise typer.BadParameter(f"key types are {known}", param_hint="--key-type") from None
    try:
        pki = create_dev_pki(DevPkiSpec(folder, tuple(site or ("localhost",)), nodes, types))
    except PkiError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    for name in pki.kept:
        typer.echo(f"kept  {pki.folder / name}")
    for name in pki.made:
        typer.echo(f"made  {pki.folder / name}")
    typer.echo(f"clients trust it with: curl --cacert {pki.ca}")


@certs_app.command("sign")
def sign_request(
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the development PKI.")],
    csr: Annotated[Path, typer.Option("--csr", help="Certificate request, PEM.")],
    out: Annotated[Path, typer.Option("--out", help="Where the certificate and its chain go.")],
    days: Annotated[int, typer.Option("--days", min=1, max=397)] = 397,
) -> None:
    """Certify a request with the development CA."""
    from certs import folder as files
    from certs.authority import PkiError, issue_from_csr, load_authority

    try:
        authority = load_authority(folder / "intermediate.pem", folder / "intermediate.key", is_root=False)
        files.write(out, issue_from_csr(authority, csr.read_bytes(), days=days), is_private=False)
    except OSError as error:
        typer.echo(f"error: {csr} can't be read: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    except PkiError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"made  {out}")
