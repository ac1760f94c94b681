"""The route by which an operator has a token opened now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from hsm.node.opening.opened import OpenToken
from hsm.node.retry import RetryRoutes


def token(name: str, try_again: Callable[[], None] | None, state: str = "up") -> OpenToken:
    async def close() -> None: ...

    admin: Any = None
    return OpenToken(
        name=name,
        kind="vault" if try_again is None else "pkcs11",
        places=1,
        queue=1,
        admin=admin,
        refusal_of=lambda error: None,
        close=close,
        state=lambda: state,
        try_again=try_again,
    )


@pytest.mark.parametrize(
    ("path", "status", "answer", "tried"),
    [
        ("hsm", 200, {"token": "hsm", "state": "pin_refused"}, 1),
        ("vault", 400, {"error": "a vault is never away: there is nothing to try again"}, 0),
        ("other", 404, {"error": "this node has no token 'other'; it has hsm, vault"}, 0),
    ],
)
async def test_a_token_is_tried_again(path: str, status: int, answer: object, tried: int) -> None:
    calls: list[str] = []
    tokens = [token("hsm", lambda: calls.append("hsm"), "pin_refused"), token("vault", None)]
    app = web.Application()
    app.add_routes(RetryRoutes(lambda: tokens)())
    async with TestClient(TestServer(app)) as client:
        response = await client.post(f"/tokens/{path}/retry")
        assert (response.status, await response.json()) == (status, answer)
    assert len(calls) == tried
