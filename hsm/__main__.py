"""`python -m hsm`: the node's commands without the proxy's."""

from __future__ import annotations

import typer

from hsm.cli.key import key_app
from hsm.cli.node import node_app
from hsm.cli.vault import vault_app

app = typer.Typer(name="sealgate", no_args_is_help=True, pretty_exceptions_show_locals=False)
for name, part in (("node", node_app), ("vault", vault_app), ("key", key_app)):
    app.add_typer(part, name=name)

if __name__ == "__main__":
    app()
