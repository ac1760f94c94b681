"""An edge for each test, stopped and checked for leftovers afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio
import uvloop

from proxy.edge.door import Doors
from proxy.edge.shared import EdgeTimes
from proxy.tls.contexts import Contexts
from tests.support import pki
from tests.support.edge import Edge, HandSigner, make_contexts, until


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], object]]:
    """The workers' event loop, and the standard library's as a second opinion on connections."""
    if item.path.name != "test_connection.py":
        return {"uvloop": uvloop.new_event_loop}
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


Site = tuple[Contexts, dict[bytes, pki.PrivateKey]]
MakeEdge = Callable[..., Awaitable[Edge]]


@pytest.fixture(scope="session")
def contexts_and_keys(tmp_path_factory: pytest.TempPathFactory):
    return make_contexts(tmp_path_factory.mktemp("site"))


@pytest_asyncio.fixture
async def make_edge(contexts_and_keys) -> AsyncIterator[MakeEdge]:
    edges: list[Edge] = []

    async def make(
        times: EdgeTimes | None = None,
        max_connections: int = 1000,
        site: Site | None = None,
        doors: Doors | None = None,
    ) -> Edge:
        contexts, keys = site or contexts_and_keys
        edge = Edge(contexts, HandSigner(keys), times or EdgeTimes(), max_connections, doors)
        edges.append(edge)
        return await edge.start()

    yield make
    for edge in edges:
        await edge.stop()
        await until(lambda edge=edge: not edge.listener.connections, "every connection was released")
        assert edge.listener.budget.taken == 0
        assert edge.observer.open == 0
        assert edge.observer.crashes == []
        assert len(edge.observer.started) == len(edge.observer.ended)
        assert edge.observer.handshakes == len(edge.observer.started) + len(edge.observer.failed)
