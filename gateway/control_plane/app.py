"""The operator API: composition, the guard around everything, errors in one envelope, health and metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.errors import (
    AdapterRejected,
    ArtifactError,
    ConfigError,
    Conflict,
    DatabaseError,
    EngineError,
    NotFound,
    UnderstudyError,
)
from adapters.fleet_store import CONTROLLER_LEASE
from gateway.control_plane.alerts import build_alert_router
from gateway.control_plane.guard import PAGE, Guard
from gateway.control_plane.resources import Services, build_router
from gateway.control_plane.rollout_resources import build_rollout_router
from gateway.data_plane.envelope import render
from gateway.errors import ApiError, bad_request, body_too_large, conflict, not_found, unavailable
from monitors.metrics_server import exposition

MAX_BODY = 64 * 1024   # bytes; the largest body is a reason
log = logging.getLogger("understudy.controller")

_CSP = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def create_app(services: Services, token: str) -> Guarded:
    """The whole application. Nothing of it is reachable from another origin, and there are no generated docs."""
    control = services.settings.control
    app = FastAPI(title="Understudy", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for kind in (UnderstudyError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)
    app.include_router(build_router(services))
    app.include_router(build_rollout_router(services))
    app.include_router(build_alert_router(services))
    _add_health(app, services)
    return Guarded(app, Guard(token, control.host, control.alerts_token))


class Guarded:
    """Around the application: the guard, a limit for bodies, and headers that every answer carries."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the lifespan."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                fixed = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
                message["headers"] = [*message.get("headers", ()), *fixed]
            await send(message)

        try:
            self._guard.check(scope["path"], Headers(scope=scope))
            body = await _read_body(receive)
        except ApiError as error:
            await _answer(error)(scope, receive, send_more)
            return
        if body is None:
            return
        messages: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        try:
            await self._app(scope, replay, send_more)
        except Exception as error:  # it has been answered; starlette raises it once more
            log.error("a request failed: %s %s", scope["method"], scope["path"], exc_info=error)


async def _read_body(receive: Receive) -> bytes | None:
    """The whole body; None when the client left. Raises ApiError (413)."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise body_too_large(MAX_BODY)
        more = message.get("more_body", False)
    return body


def _add_health(app: FastAPI, services: Services) -> None:
    metrics = services.settings.data_dir / "metrics"

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz() -> dict[str, object]:
        holder = services.stores.fleet.lease_holder(CONTROLLER_LEASE, services.controller.now())
        if holder is None:
            raise unavailable("no controller leads yet")
        return {"status": "ok", "leads": services.controller.leads, "leader": holder}

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        body, kind = await asyncio.to_thread(exposition, metrics, request.headers.get("accept", ""))
        return Response(body, media_type=kind)

    @app.get(PAGE)
    async def page() -> Response:
        return Response(_page(), media_type="text/html; charset=utf-8", headers={"content-security-policy": _CSP})


def _page() -> bytes:
    return Path(str(files("gateway.control_plane") / "status.html")).read_bytes()


# What went wrong in our own terms → the answer.
_KINDS: tuple[tuple[tuple[type[Exception], ...], Callable[[str], ApiError]], ...] = (
    ((NotFound,), not_found),
    ((Conflict,), conflict),
    ((ConfigError, AdapterRejected), bad_request),
    ((DatabaseError, EngineError, ArtifactError), unavailable),
)


async def _on_error(_request: Request, error: Exception) -> Response:
    return _answer(_translate(error))


def _answer(error: ApiError) -> Response:
    status, headers, body = render(error)
    plain = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status, plain)


def _translate(error: Exception) -> ApiError:
    """Every error as one that the envelope can hold. What was not foreseen keeps its details to the log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return bad_request(f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None)
    if isinstance(error, HTTPException):
        return _http_error(error)
    for kinds, make in _KINDS:
        if isinstance(error, kinds):
            return make(str(error))
    return ApiError(500, "internal error: see the controller's log", type="server_error", code="internal_error")


def _http_error(error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return not_found("there is nothing at this path: see docs/operator-api.md")
    headers = list((error.headers or {}).items())
    return ApiError(error.status_code, str(error.detail), code="method_not_allowed", headers=headers)
