from __future__ import annotations

import socket
from pathlib import Path

from proxy.config.load import load_config
from proxy.run.board import Board
from proxy.run.place import Place

SAMPLE = Path(__file__).parents[4] / "config" / "proxy.toml"


def test_a_process_can_close_all_its_sockets(tmp_path: Path) -> None:
    config = load_config(SAMPLE)
    listening, control = socket.socket(), socket.socket()
    place = Place(
        slot="worker-0",
        incarnation=1,
        generation=1,
        config=config,
        contexts=None,  # type: ignore[arg-type]
        board=Board(tmp_path),
        life_fd=-1,
        sockets=((config.listeners[0], listening),),
        control=control,
    )
    place.close_sockets()
    place.close_sockets()
    assert (listening.fileno(), control.fileno()) == (-1, -1)
