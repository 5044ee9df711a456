"""The HTTP side of the guard service: POST /v1/screen, and what tells whether it works (docs/screening.md)."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from adapters.errors import ConfigError
from adapters.settings import Section
from gateway.errors import bad_request, unavailable
from gateway.guard.metrics import GuardMetrics
from gateway.http_service import as_json, body_as, check_key, new_app
from monitors.llama_guard.batching import Overloaded
from monitors.llama_guard.guard import Guard
from monitors.llama_guard.types import Item, Result

MAX_ITEMS = 256      # in one request
PATHS: Mapping[str, str] = {"/v1/screen": "POST", "/healthz": "GET", "/readyz": "GET", "/metrics": "GET"}


class WireItem(Section):
    """One text to judge."""

    id: str = Field(max_length=200)
    role: Literal["user", "assistant"]
    messages: tuple[dict[str, Any], ...] = ()
    text: str | None = None


class WireRequest(Section):
    """The body of POST /v1/screen."""

    items: tuple[WireItem, ...] = Field(max_length=MAX_ITEMS)
    categories: dict[str, str] | tuple[str, ...] | None = None


def create_app(guard: Guard, metrics: GuardMetrics, api_key: str = "") -> FastAPI:
    """The application. With an `api_key`, screening needs it; health and metrics never do."""
    app = new_app("Understudy guard", PATHS, logging.getLogger("understudy.guard"))

    @app.post("/v1/screen")
    async def screen(request: Request) -> Response:
        check_key(request, api_key)
        wanted = await body_as(request, WireRequest)
        results = await _screened(guard, metrics, wanted)
        return as_json({"results": [_wire(result) for result in results]})

    @app.get("/healthz")
    async def healthz() -> Response:
        return as_json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if guard.reason:
            raise unavailable(f"the guard is not ready: {guard.reason}")
        return as_json({"status": "ok", "backend": guard.backend, "categories": dict(guard.categories)})

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        metrics.waiting(guard.waiting)
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return app


async def _screened(guard: Guard, metrics: GuardMetrics, wanted: WireRequest) -> list[Result]:
    """The results, counted. Raises ApiError: 503 when it is not ready or has too much to do, 400 for categories."""
    if guard.reason:
        metrics.refused()
        raise unavailable(f"the guard is not ready: {guard.reason}", retry_after=1.0)
    began = time.perf_counter()
    items = [Item(one.id, one.role, one.messages, one.text) for one in wanted.items]
    try:
        results = await guard.screen(items, wanted.categories)
    except Overloaded as error:
        metrics.refused()
        raise unavailable(str(error), retry_after=1.0) from None
    except ConfigError as error:
        raise bad_request(str(error), param="categories") from None
    metrics.took(time.perf_counter() - began)
    for item, result in zip(items, results, strict=True):
        metrics.judged(item.role, result)
    return results


def _wire(result: Result) -> dict[str, Any]:
    return {
        "id": result.id, "unsafe": result.unsafe, "score": result.score, "categories": list(result.categories),
        "unavailable": result.unavailable, "reason": result.reason, "scores": dict(result.scores),
    }  # fmt: skip
