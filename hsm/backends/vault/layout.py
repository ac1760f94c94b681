"""Where a vault keeps its records in the store: keys by SKI, an index that keeps labels unique, and what was used."""

from __future__ import annotations

import re

KEYS = "keys/"
LABELS = "labels/"
USAGE = "usage/"
_KEY_PATH = re.compile(r"^keys/([0-9a-f]{40})\Z", re.ASCII)


def key_path(ski: bytes) -> str:
    """The record of a key."""
    return f"{KEYS}{ski.hex()}"


def label_path(label: str) -> str:
    """The record that says which key has a label."""
    return f"{LABELS}{label}"


def usage_path(node: str, ski: bytes) -> str:
    """The record in which a node counts the use of a key, together with a sixteenth of all keys.

    Not one record per key: with a thousand keys in use each count would write a thousand rows.
    """
    return f"{USAGE}{node}/{ski.hex()[:1]}"


def ski_of_path(path: str) -> bytes | None:
    """The inverse of `key_path`; None for other paths."""
    match = _KEY_PATH.match(path)
    return bytes.fromhex(match[1]) if match else None
