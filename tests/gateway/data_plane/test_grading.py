"""The client of the scoring service, over real sockets and with a service that misbehaves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from gateway.data_plane import grading
from gateway.data_plane.grading import Grading, Job, Text, read_scores
from monitors.rewards.http_client import Client
from tests.support.serving import Asked, json_answer, scripted_engine
from tests.support.waiting import PATIENCE, eventually


class Service:
    """Scores a text by its length; does `wrong` first, as often as it says."""

    def __init__(self, *wrong: bytes) -> None:
        self.wrong = list(wrong)
        self.seen: list[Any] = []
        self.keys: list[str] = []

    async def __call__(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        self.keys.append(asked.headers.get("authorization", ""))
        if self.wrong:
            writer.write(self.wrong.pop(0))
            return
        samples = asked.json["samples"]
        self.seen.append(samples)
        scores = [{"id": s["id"], "scores": {"length": len(s["completion"]) / 10, "judge": None}} for s in samples]
        writer.write(json_answer({"scores": scores[::-1], "fingerprints": {"length": "f"}}))


class Drops(Counter[str]):
    def __call__(self, kind: str, count: int) -> None:
        self[kind] += count


def text(completion: str) -> Text:
    return Text([{"role": "user", "content": "hi"}], completion, {"answer": "46"})


def client(url: str, attempts: int = 4) -> Client:
    return Client("production", url, timeout=PATIENCE, key="secret", attempts=attempts)


async def test_jobs_are_scored_in_batches_and_missing_scores_are_missing() -> None:
    service, drops, got = Service(), Drops(), []
    async with scripted_engine(service) as url:
        graded = Grading(client(url), drops)
        for number in range(5):
            graded.offer(Job([text("x" * number), text("y")], got.append))
        await eventually(lambda: len(got) == 5)
        await asyncio.to_thread(graded.close, 5.0)
    assert got == [[{"length": number / 10}, {"length": 0.1}] for number in range(5)]
    assert sum(map(len, service.seen)) == 10 and len(service.seen) < 5
    assert service.seen[0][1] == {"id": "1", "prompt": [{"role": "user", "content": "hi"}], "completion": "y",
                                  "columns": {"answer": "46"}}  # fmt: skip
    assert set(service.keys) == {"Bearer secret"} and not drops


async def test_a_busy_service_is_asked_again() -> None:
    busy = json_answer({"error": {"message": "busy"}}, "503 Service Unavailable")
    service, drops, got = Service(busy, busy), Drops(), []
    async with scripted_engine(service) as url:
        graded = Grading(client(url), drops)
        graded.offer(Job([text("xx")], got.append))
        await eventually(lambda: got)
        await asyncio.to_thread(graded.close, 5.0)
    assert got == [[{"length": 0.2}]] and not drops


@pytest.mark.parametrize("wrong", [json_answer({"error": {"message": "no"}}, "400 Bad Request"), json_answer([1]),
                                   json_answer({"answer": 1})])  # fmt: skip
async def test_what_is_refused_is_dropped_and_counted_and_the_next_is_served(wrong: bytes) -> None:
    service, drops, got = Service(wrong), Drops(), []
    async with scripted_engine(service) as url:
        graded = Grading(client(url, attempts=1), drops)
        graded.offer(Job([text("x")], got.append))
        await eventually(lambda: drops)
        graded.offer(Job([text("x")], got.append))
        await eventually(lambda: got)
        await asyncio.to_thread(graded.close, 5.0)
    assert drops == {"grading": 1} and len(got) == 1


async def test_the_queue_is_bounded_in_number_and_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grading, "INTERVAL", 3600.0)
    drops = Drops()
    graded = Grading(client("http://127.0.0.1:9"), drops)
    for _ in range(grading.CAPACITY + 10):
        graded.offer(Job([text("x")], print))
    assert drops == {"grading": 10}
    await asyncio.to_thread(graded.close, 5.0)
    assert drops == {"grading": grading.CAPACITY + 10}
    long = Grading(client("http://127.0.0.1:9"), drops)
    for _ in range(20):
        long.offer(Job([text("x" * 2 * 1024**2)], print))
    await asyncio.to_thread(long.close, 5.0)
    assert drops == {"grading": grading.CAPACITY + 30}


@pytest.mark.parametrize(("answer", "scores"), [
    ({"scores": [{"id": "0", "scores": {"exact": 1}}]}, [{"exact": 1.0}, {}]),
    ({"scores": [{"id": 1, "scores": {"exact": True, "number": float("nan"), "bad name": 1, "regex": "1"}}]}, [{}, {}]),
    ({"scores": [{"id": "0"}, 7, {"id": "9", "scores": {"exact": 1}}]}, [{}, {}]),
])  # fmt: skip
def test_only_finite_numbers_of_well_named_graders_are_scores(answer: Any, scores: Any) -> None:
    assert read_scores(answer, 2) == scores


def test_a_service_cannot_make_labels_without_end() -> None:
    many = {"scores": [{"id": "0", "scores": {f"g{n}": 0.5 for n in range(1000)}}]}
    assert len(read_scores(json.loads(json.dumps(many)), 1)[0]) == grading.MOST_GRADERS
