"""The HTTP side of the scoring service: POST /v1/score, and what tells whether it works."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import Field, ValidationError
from starlette.exceptions import HTTPException

from adapters.settings import Section
from gateway.data_plane.envelope import render
from gateway.errors import (
    ApiError,
    bad_request,
    body_too_large,
    internal_error,
    invalid_key,
    method_not_allowed,
    not_found,
    unavailable,
)
from gateway.scoring.lanes import Scorer
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.types import Sample

MAX_BODY = 16 * 1024**2      # bytes
MAX_SAMPLES = 256            # in one request

log = logging.getLogger("understudy.reward")


class WireSample(Section):
    """One answer to score."""

    id: str = Field(max_length=200)
    completion: str
    prompt: tuple[dict[str, Any], ...] = ()
    columns: dict[str, Any] = Field(default_factory=dict)


class WireRequest(Section):
    """The body of POST /v1/score."""

    samples: tuple[WireSample, ...] = Field(max_length=MAX_SAMPLES)


def create_app(scorer: Scorer, metrics: ScoringMetrics, api_key: str = "") -> FastAPI:
    """The application. With an `api_key`, scoring needs it; health and metrics never do."""
    app = FastAPI(title="Understudy rewards", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for kind in (ApiError, HTTPException, Exception):
        app.add_exception_handler(kind, _on_error)

    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        _check_key(request, api_key)
        wanted = _parse(await _body(request))
        samples = [Sample(one.prompt, one.completion, one.columns) for one in wanted.samples]
        rows = await scorer.score(samples)
        scores = [{"id": one.id, "scores": row} for one, row in zip(wanted.samples, rows, strict=True)]
        return _json({"scores": scores, "fingerprints": scorer.fingerprints()})

    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if reasons := scorer.reasons():
            raise unavailable("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        return _json({"status": "ok", "graders": scorer.fingerprints()})

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return app


def _check_key(request: Request, api_key: str) -> None:
    if api_key:
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not secrets.compare_digest(given.encode(), api_key.encode()):
            raise invalid_key(bool(given))


async def _body(request: Request) -> bytes:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            raise body_too_large(MAX_BODY)
    return body


def _parse(body: bytes) -> WireRequest:
    try:
        return WireRequest.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise bad_request(f"{where or 'the body'}: {first['msg']}", param=where or None) from None


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        error = not_found("there are POST /v1/score, GET /healthz, /readyz and /metrics")
        if request.url.path in ("/v1/score", "/healthz", "/readyz", "/metrics"):
            error = method_not_allowed(["POST" if request.url.path == "/v1/score" else "GET"])
    elif not isinstance(error, ApiError):
        log.error("a request failed: %s %s", request.method, request.url.path, exc_info=error)
        error = internal_error()
    status, headers, body = render(error)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})
