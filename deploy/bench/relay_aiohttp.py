"""A leaner relay, as small as it can be: a bare ASGI application and aiohttp's client.

It only passes bytes on: no keys, no routes, no limits, no metrics. UPSTREAM names the server behind it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
KEPT = ("content-type", "content-length")


class WithAiohttp:
    """The application."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.lifespan(receive, send)
        elif scope["type"] == "http":
            await self.relay(scope, receive, send)

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """Hold the connection pool from start-up to shutdown."""
        await receive()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self.session:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def relay(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass one request on and its answer back."""
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        url, headers = os.environ["UPSTREAM"] + scope["path"], {"content-type": "application/json"}
        async with self.session.request(scope["method"], url, data=body, headers=headers) as answer:
            kept = [(k.encode(), answer.headers[k].encode()) for k in KEPT if k in answer.headers]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for data in answer.content.iter_any():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})


def create() -> WithAiohttp:
    """uvicorn's factory."""
    return WithAiohttp()
