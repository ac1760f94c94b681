"""A route of the management socket that has a token opened now, which is away.

A node goes on trying by itself, with pauses; one thing it never does is to try a PIN again that the token refused,
because tokens lock themselves. When the operator knows that the same PIN is good now, this is how to say so.

====== ======================== ==================================
POST   /tokens/{token}/retry    {"token", "state"}: what it does now
====== ======================== ==================================

Errors are {"error": "a sentence"} with a status of 400 or 404.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aiohttp import web

from hsm.node.opening.opened import OpenToken
from hsm.shared.exposition import json_response


class RetryRoutes:
    """The routes; call it for the list."""

    def __init__(self, tokens: Callable[[], Sequence[OpenToken]]) -> None:
        """`tokens` says which are open now."""
        self._tokens = tokens

    def __call__(self) -> list[web.RouteDef]:
        """To be added to an application on a socket that only the node's user may open."""
        return [web.post("/tokens/{token}/retry", self._retry)]

    async def _retry(self, request: web.Request) -> web.Response:
        name = request.match_info["token"]
        known = {token.name: token for token in self._tokens()}
        token = known.get(name)
        if token is None:
            return json_response(
                {"error": f"this node has no token {name!r}; it has {', '.join(known) or 'none'}"}, 404
            )
        if token.try_again is None:
            return json_response({"error": f"a {token.kind} is never away: there is nothing to try again"}, 400)
        token.try_again()
        return json_response({"token": name, "state": token.state()})
