"""The scoring service's HTTP: requests that are right and wrong, keys, readiness, metrics."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from gateway.scoring.app import MAX_SAMPLES, create_app
from gateway.scoring.lanes import Lane, Scorer
from gateway.scoring.metrics import ScoringMetrics
from monitors.rewards.build import build_graders
from monitors.rewards.composite import Composite
from monitors.rewards.settings import RewardSpec
from tests.gateway.scoring.test_lanes import Scripted

SPECS = [RewardSpec(name="exact", weight=3), RewardSpec(name="length", options={"target": 1, "limit": 3})]


@pytest.fixture
async def made():
    """(client, scorer) over the application with two verifiers."""
    graders = build_graders(SPECS)
    metrics = ScoringMetrics([grader.name for grader in graders])
    lanes = [Lane(grader, batch=8, wait=0.0, metrics=metrics) for grader in graders]
    scorer = Scorer(lanes, Composite(graders, SPECS), 1000, metrics)
    await scorer.prepare()
    task = asyncio.create_task(scorer.run())
    async with client(create_app(scorer, metrics)) as http:
        yield http
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://t")


async def test_scores_and_fingerprints(made):
    samples = [
        {"id": "a", "prompt": [{"role": "user", "content": "q"}], "completion": "yes", "columns": {"answer": "yes"}},
        {"id": "b", "completion": "yes or no"},
    ]
    answer = (await made.post("/v1/score", json={"samples": samples})).json()
    assert answer["scores"] == [
        {"id": "a", "scores": {"exact": 1.0, "length": 1.0, "composite": 1.0}},
        {"id": "b", "scores": {"exact": None, "length": 0.0, "composite": None}},
    ]
    assert answer["fingerprints"].keys() == {"exact", "length", "composite"}
    empty = (await made.post("/v1/score", json={"samples": []})).json()
    assert empty == {"scores": [], "fingerprints": answer["fingerprints"]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b'{"samples": NaN}', "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"[]", "the body: Input should be"),
        (b"{}", "samples: Field required"),
        (b'{"samples": [{"id": "a"}]}', "samples.0.completion: Field required"),
        (b'{"samples": [{"id": 1, "completion": ""}]}', "samples.0.id: Input should be a valid string"),
        (b'{"samples": [{"id": "a", "completion": "", "x": 1}]}', "samples.0.x: Extra inputs"),
        (b'{"samples": [{"id": "a", "completion": "", "prompt": "q"}]}', "samples.0.prompt: Input should be"),
    ],
)
async def test_wrong_bodies(made, body, message):
    answer = await made.post("/v1/score", content=body)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]


async def test_too_much(made):
    samples = [{"id": str(n), "completion": ""} for n in range(MAX_SAMPLES + 1)]
    answer = await made.post("/v1/score", json={"samples": samples})
    assert answer.status_code == 400 and "at most 256 items" in answer.json()["error"]["message"]
    answer = await made.post("/v1/score", content=b" " * (17 << 20))
    assert answer.status_code == 413


async def test_other_paths_and_methods(made):
    assert (await made.get("/healthz")).json() == {"status": "ok"}
    assert (await made.get("/readyz")).json()["graders"].keys() == {"exact", "length", "composite"}
    assert (await made.get("/v1/score")).status_code == 405
    assert (await made.get("/v1/score")).headers["allow"] == "POST"
    for path in ("/", "/docs", "/openapi.json", "/v1/score/"):
        assert (await made.get(path)).status_code == 404


async def test_metrics_are_named_as_the_conventions_say(made):
    await made.post("/v1/score", json={"samples": [{"id": "a", "completion": "x"}]})
    answer = await made.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    assert 'understudy_scoring_samples_total{grader="exact",outcome="missing"} 1.0' in lines
    assert 'understudy_scoring_samples_total{grader="length",outcome="scored"} 1.0' in lines
    assert 'understudy_scoring_duration_seconds_count{grader="length"} 1.0' in lines
    assert "understudy_scoring_waiting_samples 0.0" in lines and "understudy_scoring_refused_total 0.0" in lines


async def test_keys_and_readiness():
    grader = Scripted("late", unready=99)
    metrics = ScoringMetrics(["late"])
    scorer = Scorer([Lane(grader, batch=1, wait=0.0, metrics=metrics)], None, 10, metrics)
    await scorer.prepare()
    async with client(create_app(scorer, metrics, "secret")) as http:
        body = json.dumps({"samples": []})
        assert (await http.post("/v1/score", content=body)).status_code == 401
        for key in ("wrong", "secret2", "", "sécret"):
            answer = await http.post("/v1/score", content=body, headers={"authorization": f"Bearer {key}".encode()})
            assert answer.status_code == 401
        answer = await http.post("/v1/score", content=body, headers={"authorization": "Bearer secret"})
        assert answer.json() == {"scores": [], "fingerprints": {"late": None}}
        ready = await http.get("/readyz")
        assert ready.status_code == 503 and "late: the judge sleeps" in ready.json()["error"]["message"]


async def test_a_bug_is_an_envelope_too():
    metrics = ScoringMetrics([])

    class Broken:
        async def score(self, _samples):
            raise RuntimeError("secret detail")

    async with client(create_app(Broken(), metrics)) as http:
        answer = await http.post("/v1/score", json={"samples": []})
    assert answer.status_code == 500 and "secret" not in answer.text
