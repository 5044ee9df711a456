"""What the small HTTP services (guard, rewards) have in common: their port, their errors, and when they end."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from adapters.errors import ConfigError
from adapters.settings import Section
from gateway.config import is_loopback
from gateway.data_plane.envelope import render
from gateway.errors import (
    ApiError,
    bad_request,
    body_too_large,
    internal_error,
    invalid_key,
    method_not_allowed,
    not_found,
)

MAX_BODY = 16 * 1024**2    # bytes
LAST_ANSWERS = 30          # seconds that requests in flight get at the end

S = TypeVar("S", bound=Section)


def listen(section: str, host: str, port: int, api_key: str) -> socket.socket:
    """A bound socket. Raises ConfigError when the port is taken, the address is not ours, or others could reach it."""
    if not is_loopback(host) and not api_key:
        raise ConfigError(f"{section}.host is {host}, which others can reach: set {section}.api_key too")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(*found[:3])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(found[4])
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"{host}:{port}"
        raise ConfigError(f"cannot listen on {where}: {reason}; set {section}.host and {section}.port") from None
    return listener


def server_of(app: FastAPI) -> uvicorn.Server:
    """A server that leaves the signals to its caller: set `should_exit` to end it, after the answers in flight."""
    return _Server(
        uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, server_header=False,
            timeout_graceful_shutdown=LAST_ANSWERS,
        )
    )  # fmt: skip


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing to capture."""
        yield


def new_app(title: str, paths: Mapping[str, str], log: logging.Logger) -> FastAPI:
    """An application whose errors are all OpenAI's envelope. `paths`: path → its one method."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    handler = _errors(paths, log)
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, handler)
    return app


def check_key(request: Request, api_key: str) -> None:
    """Raises ApiError (401) unless the request carries the key, where there is one."""
    if api_key:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not secrets.compare_digest(given.encode(), api_key.encode()):
            raise invalid_key(bool(given))


async def body_as(request: Request, model: type[S]) -> S:
    """The body, checked. Raises ApiError: 413 above 16 MiB, 400 with the field for what is wrong."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise body_too_large(MAX_BODY)
    try:
        return model.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where or 'the body'}: {first['msg']}", param=where or None) from None


def as_json(value: Any) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), media_type="application/json")


def _errors(paths: Mapping[str, str], log: logging.Logger) -> Callable[[Request, Exception], Awaitable[Response]]:
    known: Sequence[str] = [f"{method} {path}" for path, method in paths.items()]

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            method = paths.get(request.url.path)
            error = method_not_allowed([method]) if method else not_found("there are " + ", ".join(known))
        elif not isinstance(error, ApiError):
            log.error("a request failed: %s %s", request.method, request.url.path, exc_info=error)
            error = internal_error()
        status, headers, body = render(error)
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    return answer
