"""What a process gets from the master when it is forked: its slot, its sockets, and what was built before."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.config.schema import ListenerConfig, ProxyConfig
from proxy.run.board import Board

if TYPE_CHECKING:
    from proxy.tls.contexts import Contexts  # imports cryptography, which must wait for the provider


@dataclass(frozen=True, slots=True)
class Place:
    """One process's place in the fleet."""

    slot: str
    incarnation: int
    """A number that no other fork of this master has."""
    generation: int
    """Which config this is, from 1; a reload will count it up."""
    config: ProxyConfig
    contexts: Contexts
    board: Board
    life_fd: int
    """Reads end-of-file when the master is gone."""
    sockets: tuple[tuple[ListenerConfig, socket.socket], ...] = ()
    """A worker's listening sockets."""
    control: socket.socket | None = None
    """The control process's listening socket."""

    def close_sockets(self) -> None:
        """Close this process's handles, so that an address is free when the last holder has closed its own."""
        for _, each in self.sockets:
            each.close()
        if self.control is not None:
            self.control.close()
