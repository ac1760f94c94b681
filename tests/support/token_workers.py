"""Finds the processes that run a token's library, from outside: by parent, command line and environment."""

from __future__ import annotations

from pathlib import Path

import psutil

WORKER = "hsm.backends.pkcs11.worker"


def token_workers_of(node_pid: int) -> list[psutil.Process]:
    """The token workers of one node."""
    children = psutil.Process(node_pid).children(recursive=True)
    return [child for child in children if WORKER in child.cmdline()]


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    """Whether a process works in a folder: its command line names it or, of a token worker, its environment does.

    Nobody but root may read the environment of a hardened process; then an orphan is taken for one.
    """
    try:
        command = process.cmdline()
        if WORKER not in command:
            return str(folder) in " ".join(command)
        try:
            return any(str(folder) in value for value in process.environ().values())
        except psutil.AccessDenied:
            parent = process.parent()
            return parent is None or "node" not in parent.cmdline()
    except psutil.NoSuchProcess:
        return False
