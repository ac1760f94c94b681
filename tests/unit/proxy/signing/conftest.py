"""Fixtures of the signing tests; they run on the loop that workers run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from tests.support.fake_node import LinkPki
from tests.support.signing_cluster import Cluster, start_cluster


@pytest.fixture(scope="session")
def link_pki(tmp_path_factory: pytest.TempPathFactory) -> LinkPki:
    """Identities of nodes and proxy."""
    return LinkPki.make(tmp_path_factory.mktemp("link"))


@pytest.fixture
async def make_cluster(link_pki: LinkPki) -> AsyncIterator[Callable[..., Awaitable[Cluster]]]:
    """Start clusters; at the end of the test they are stopped, and every job and attempt must have ended once."""
    clusters: list[Cluster] = []

    async def make(names: str = "abc", *, wait: bool = True, **changes: Any) -> Cluster:
        cluster = await start_cluster(link_pki, names, **changes)
        clusters.append(cluster)
        if wait:
            await cluster.up(*names)
        return cluster

    yield make
    for cluster in clusters:
        await cluster.signer.stop()
        for node in cluster.nodes.values():
            await node.kill()
            assert node.unseen == 0, "a node was asked to sign a digest without the message"
        cluster.observer.check_balance()
    await asyncio.sleep(0.02)  # transports that were just closed get their turn to go


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """Workers run on uvloop, and its transports behave a little differently from asyncio's."""
    return {"uvloop": uvloop.new_event_loop}
