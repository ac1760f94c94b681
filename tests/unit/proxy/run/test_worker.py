from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from proxy.config.load import load_config
from proxy.run.board import Board, Wishes
from proxy.run.place import Place
from proxy.run.worker import Worker
from proxy.tls.contexts import build_contexts
from tests.support.edge import until
from tests.support.fake_node import Fault
from tests.support.fleet import NAME, ProxyProcess, in_thread, make_proxy
from tests.support.tls_client import visit


class World:
    """A worker in this very process: its place, and the pipe that says whether the master lives."""

    def __init__(self, proxy: ProxyProcess, folder: Path) -> None:
        config = load_config(proxy.config)
        self.proxy = proxy
        self.board = Board.create()
        self.life_read, self.life_write = os.pipe()
        self.bound = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.bound.getsockname()[1]
        self.place = Place(
            slot="worker-0",
            incarnation=1,
            generation=1,
            config=config,
            contexts=build_contexts(config.tls, config.sites, folder),
            board=self.board,
            life_fd=self.life_read,
            sockets=((config.listeners[0], self.bound),),
        )

    def report(self):
        reports = self.board.workers()
        return reports[0] if reports else None


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    proxy = await make_proxy(tmp_path)
    new = World(proxy, tmp_path)
    yield new
    await proxy.node.kill()
    proxy.web.stop()
    os.close(new.life_read)
    new.board.remove()


async def test_a_worker_serves_reports_and_ends_with_its_master(world: World) -> None:
    life = asyncio.ensure_future(Worker(world.place).run())
    await until(lambda: bool(world.report() and world.report().is_ready), "the worker is ready")
    assert (await in_thread(visit, world.port, NAME)).answer.endswith(b"hello")
    await until(lambda: world.report().nodes[0].signatures == 1, "the signature is reported")
    node = world.report().nodes[0]
    assert (node.state, node.admin, node.is_up) == ("up", "enabled", True)
    assert node.window > 0
    ski = world.place.contexts.site_keys[0][0].hex()
    assert world.report().holders == {ski: (node.name,)}
    world.board.publish_wishes(Wishes(states={node.name: "draining", "another": "disabled"}))
    await until(lambda: world.report().nodes[0].admin == "draining", "the worker has acted on the wish")
    assert not world.report().nodes[0].is_up
    assert world.report().unready_because == f"no node is up for the key of {NAME} (p256)"
    world.board.publish_wishes(Wishes(states={node.name: "enabled"}))
    await until(lambda: world.report().nodes[0].is_up and world.report().is_ready, "the node signs again")
    assert (await in_thread(visit, world.port, NAME)).answer.endswith(b"hello")
    os.close(world.life_write)  # the master is gone
    assert await asyncio.wait_for(life, 10) == 0
    assert world.report().is_draining
    assert not world.report().is_ready
    assert world.bound.fileno() == -1


async def test_a_worker_without_nodes_says_what_is_missing_and_accepts_all_the_same(world: World) -> None:
    world.proxy.node.fault = Fault.SILENT
    await world.proxy.node.kill()
    life = asyncio.ensure_future(Worker(world.place).run())
    await until(lambda: world.report() is not None)
    assert world.report().unready_because == f"no node is up for the key of {NAME} (p256)"
    _, writer = await asyncio.open_connection("127.0.0.1", world.port)
    await until(lambda: world.report().connections == 1, "the client was accepted")
    writer.close()
    os.close(world.life_write)
    assert await asyncio.wait_for(life, 10) == 0
