"""`sealgate certs`: makes a development PKI. Imports what it needs within its commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class KeysIn(StrEnum):
    """What holds the site keys."""

    VAULT = "vault"
    PKCS11 = "pkcs11"


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
        typer.Option("--key-type", help="Key type of the site certificates; may be repeated. [p256 and rsa-2048]"),
    ] = None,
    backend: Annotated[
        KeysIn, typer.Option("--backend", help="What holds the site keys: a vault, or a SoftHSM2 token by PKCS#11.")
    ] = KeysIn.VAULT,
) -> None:
    """Make a CA, identities of nodes and proxy, a token, and site certificates whose keys never leave the token.

    Running it again keeps what is still valid. For development only: the CA's key lies in the folder.
    """
    from certs.pki import DevPkiSpec, PkiError, create_dev_pki
    from certs.site_keys import vault_keys
    from certs.softhsm_keys import softhsm_keys
    from hsm.shared.hardening import forbid_core_files
    from hsm.wire.schemes import KeyType

    forbid_core_files()
    try:
        types = tuple(KeyType(name) for name in key_type or ("p256", "rsa-2048"))
    except ValueError:
        known = ", ".join(type_.value for type_ in KeyType if type_ is not KeyType.RSA_OTHER)
        raise typer.BadParameter(f"key types are {known}", param_hint="--key-type") from None
    try:
        spec = DevPkiSpec(folder, tuple(site or ("localhost",)), nodes, types)
        pki = create_dev_pki(spec, softhsm_keys if backend is KeysIn.PKCS11 else vault_keys)
    except PkiError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    for name in pki.kept:
        typer.echo(f"kept  {pki.folder / name}")
    for name in pki.made:
        typer.echo(f"made  {pki.folder / name}")
    typer.echo(f"clients trust it with: curl --cacert {pki.ca}")
    typer.echo(f"nodes use its site keys with, in node.toml:\n\n{pki.token.toml()}")


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
        try:
            certificate = issue_from_csr(authority, csr.read_bytes(), days=days)
        except OSError as error:
            raise PkiError(f"{csr} can't be read: {error.strerror}") from None
        except PkiError as error:
            raise PkiError(f"{csr}: {error}") from None
        files.write(out, certificate, is_private=False)
    except PkiError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"made  {out}")
