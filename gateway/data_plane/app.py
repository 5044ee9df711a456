"""The ASGI application of a worker: the hot paths go straight to the handler, everything else to FastAPI."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from adapters.errors import UnderstudyError
from gateway.config import Settings
from gateway.data_plane.asgi import AsgiDownstream, ClientLeft, Message, Receive, Send, read_body, send_whole
from gateway.data_plane.auth import is_operator, may_use
from gateway.data_plane.endpoints import ENDPOINTS
from gateway.data_plane.envelope import render
from gateway.data_plane.feedback import MAX_BODY
from gateway.data_plane.worker import Worker
from gateway.errors import (
    ApiError,
    client_gone,
    internal_error,
    method_not_allowed,
    model_not_found,
    not_found,
    unavailable,
)

logger = logging.getLogger("understudy.app")


class DataPlane:
    """ASGI callable. `worker` exists while the lifespan runs."""

    def __init__(self, settings: Settings) -> None:
        self.worker = Worker(settings)
        self._limit = settings.gateway.max_body_bytes
        self._rest = create_rest(self.worker)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Dispatch one scope."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in ENDPOINTS:
            await self._hot(scope, receive, send)
        else:
            await self._rest(scope, receive, send)

    async def _hot(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, self._limit)
        except ClientLeft:
            return
        except ApiError as error:
            status, headers, answer = render(error)
            await send_whole(send, status, [*headers, (b"connection", b"close")], answer)
            return
        downstream = AsgiDownstream()
        self.worker.handler.handle(ENDPOINTS[scope["path"]], scope["headers"], body, time.monotonic(), downstream)
        await downstream.pump(receive, send)


def create_rest(worker: Worker) -> FastAPI:
    """Models, feedback, health, and the envelope around every other path and method."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with worker.running():
            yield

    app = FastAPI(title="Understudy", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    reading = ["GET", "HEAD"]
    app.add_api_route("/v1/models", _models(worker), methods=reading)
    app.add_api_route("/v1/models/{name:path}", _model(worker), methods=reading)
    app.add_api_route("/v1/feedback", _feedback(worker), methods=["POST"])
    app.add_api_route("/healthz", _healthz, methods=reading)
    app.add_api_route("/readyz", _readyz(worker), methods=reading)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UnderstudyError, _failed)
    app.add_exception_handler(ClientLeft, _left)
    app.add_exception_handler(Exception, _broken)
    return app


def _answer(error: ApiError) -> Response:
    status, headers, body = render(error)
    response = Response(body, status_code=status)
    for name, value in headers:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 405 or path in ENDPOINTS:
        allowed = "POST" if path in ENDPOINTS else (error.headers or {}).get("Allow", "GET")
        return _answer(method_not_allowed(sorted(allowed.split(", "))))
    return _answer(not_found("There is nothing at this path: see GET /v1/models and the documentation"))


async def _failed(_request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        return _answer(error)
    logger.error("request failed: %s", error)
    return _answer(unavailable("The gateway's database cannot be reached now: try again shortly"))


async def _left(_request: Request, _error: Exception) -> Response:
    return _answer(client_gone())


async def _broken(_request: Request, error: Exception) -> Response:
    logger.error("bug", exc_info=error)
    return _answer(internal_error())


def _principal(worker: Worker, request: Request) -> Any:
    headers = request.headers
    given, alternative = headers.get("authorization"), headers.get("x-api-key")
    return worker.services.authenticator.authenticate(
        given.encode("latin-1") if given else None, alternative.encode("latin-1") if alternative else None
    )


def _listed(worker: Worker, request: Request) -> list[dict[str, Any]]:
    """The models this caller may use, in OpenAI's shape."""
    principal = _principal(worker, request)
    table = worker.services.table
    if table is None:
        raise unavailable("No routing state has been published yet: is `understudy controller` running?")
    names = [name for name in table.public_names if may_use(principal, name)]
    if is_operator(principal):
        names += table.pinned
    created = int(table.snapshot.effective_at)
    return [{"id": name, "object": "model", "created": created, "owned_by": "understudy"} for name in names]


def _models(worker: Worker) -> Any:
    async def models(request: Request) -> dict[str, Any]:
        return {"object": "list", "data": _listed(worker, request)}

    return models


def _model(worker: Worker) -> Any:
    async def model(request: Request, name: str) -> dict[str, Any]:
        found = next((entry for entry in _listed(worker, request) if entry["id"] == name), None)
        if found is None:
            raise model_not_found(name)
        return found

    return model


def _feedback(worker: Worker) -> Any:
    async def feedback(request: Request) -> Response:
        principal = _principal(worker, request)
        body = await read_body(request.receive, MAX_BODY)
        await worker.accept_feedback(body, principal)
        return Response('{"status": "accepted"}', status_code=202, media_type="application/json")

    return feedback


async def _healthz() -> dict[str, str]:
    return {"status": "ok"}


def _readyz(worker: Worker) -> Any:
    async def readyz() -> Response:
        reason = worker.not_ready()
        text = json.dumps({"status": "not ready", "reason": reason} if reason else {"status": "ready"})
        return Response(text, status_code=503 if reason else 200, media_type="application/json")

    return readyz
