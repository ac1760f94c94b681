"""Fixtures of the signing tests; they run on the loop that workers run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

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

    async def make(*args: Any, **changes: Any) -> Cluster:
        clusters.append(await start_cluster(link_pki, *args, **changes))
        return clusters[-1]

    yield make
    for cluster in clusters:
        await cluster.signer.stop()
        for node in cluster.nodes.values():
            await node.kill()
        cluster.observer.check_balance()
    await asyncio.sleep(0.02)  # transports that were just closed get their turn to go
