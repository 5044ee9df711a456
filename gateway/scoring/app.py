"""The HTTP side of the scoring service: POST /v1/score, and what tells whether it works."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from adapters.settings import Section
from gateway.errors import unavailable
from gateway.http_service import as_json, body_as, check_key, new_app
from gateway.scoring.lanes import Scorer
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.types import Sample

MAX_SAMPLES = 256            # in one request
PATHS = {"/v1/score": "POST", "/healthz": "GET", "/readyz": "GET", "/metrics": "GET"}

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
    app = new_app("Understudy rewards", PATHS, log)

    @app.post("/v1/score")
    async def score(request: Request) -> Response:
        check_key(request, api_key)
        wanted = await body_as(request, WireRequest)
        samples = [Sample(one.prompt, one.completion, one.columns) for one in wanted.samples]
        rows = await scorer.score(samples)
        scores = [{"id": one.id, "scores": row} for one, row in zip(wanted.samples, rows, strict=True)]
        return as_json({"scores": scores, "fingerprints": scorer.fingerprints()})

    @app.get("/healthz")
    async def healthz() -> Response:
        return as_json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if reasons := scorer.reasons():
            raise unavailable("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        return as_json({"status": "ok", "graders": scorer.fingerprints()})

    @app.get("/metrics")
    async def scrape(request: Request) -> Response:
        body, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return app
