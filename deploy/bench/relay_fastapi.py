"""The relay that people usually write, as small as it can be: FastAPI, httpx and a StreamingResponse.

It only passes bytes on: no keys, no routes, no limits, no metrics. UPSTREAM names the server behind it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

KEPT = ("content-type", "content-length")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold the connection pool from start-up to shutdown."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM"], limits=limits, timeout=60.0) as client:
        app.state.client = client
        yield


async def relay(request: Request) -> StreamingResponse:
    """Pass one request on and its answer back."""
    client: httpx.AsyncClient = request.app.state.client
    headers = {"content-type": "application/json"}
    onward = client.build_request(request.method, request.url.path, content=await request.body(), headers=headers)
    answer = await client.send(onward, stream=True)
    kept = {name: answer.headers[name] for name in KEPT if name in answer.headers}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))


def create() -> FastAPI:
    """uvicorn's factory."""
    app = FastAPI(lifespan=lifespan)
    app.add_api_route("/{path:path}", relay, methods=["GET", "POST"], response_model=None)
    return app
