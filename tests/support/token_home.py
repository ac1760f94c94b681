"""A node's home (tests.support.node) whose keys are in a SoftHSM2 token instead of a vault."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from certs.site_keys import TokenPlace
from certs.softhsm_keys import softhsm_keys
from hsm.backends.attributes import KeyAttributes
from hsm.wire.schemes import KeyType
from tests.support.node import NodeHome, make_home


@dataclass(frozen=True)
class TokenHome(NodeHome):
    """Keys are labelled as those of the vault that it also has, and does not use."""

    place: TokenPlace

    def write_config(self, name: str = "node-1", extra: str = "", *, listen: str = "", node: str = "") -> Path:
        """A config file of a node on the token."""
        path = super().write_config(name, extra, listen=listen, node=node)
        section = re.compile(r"\[\[tokens\]\].*?(?=^\[ops\])", re.DOTALL | re.MULTILINE)
        path.write_text(section.sub(lambda _: self.place.toml(), path.read_text(), count=1))
        return path


def make_token_home(path: Path, types: tuple[KeyType, ...]) -> TokenHome:
    """As `make_home`, with keys of these types in the token."""
    home = make_home(path, ())
    with softhsm_keys(path) as token:
        records = [token.admin.generate(type_, f"www-{type_.value}", KeyAttributes()) for type_ in types]
    keys = {record.label: (record.ski, record.public_key) for record in records}
    return TokenHome(path, home.store, home.key_file, keys, token.place)
