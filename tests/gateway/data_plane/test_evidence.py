"""Sampled answers, their statistics and scores, over real sockets; and that no text stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from adapters import tables
from adapters.types import Flag
from gateway.data_plane import evidence
from gateway.data_plane.evidence import Evidence
from monitors.conventions import EventKind
from tests.support.rollouts import Published, rows
from tests.support.serving import (
    ASK,
    CHAT,
    OTHER,
    SSE_HEAD,
    STABLE,
    Asked,
    client,
    completion,
    event,
    http_chunk,
    json_answer,
    routed,
    scripted_engine,
    serving,
)
from tests.support.waiting import eventually

WORDS = "one two three four five six seven eight nine ten"


async def talks(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """The candidate repeats itself."""
    text = "marker-of-the-answer " * 40 if asked.json["model"] == OTHER else WORDS
    if not asked.json.get("stream"):
        writer.write(json_answer(completion(asked, text)))
        return
    writer.write(SSE_HEAD + event(asked, text[:10]) + event(asked, text[10:]))
    writer.write(http_chunk(b"data: [DONE]\n\n") + http_chunk(b""))


async def service(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Scores by whether the answer holds what the client's metadata asks for."""
    samples = asked.json["samples"]
    scores = [{"id": s["id"], "scores": {"exact": float(s["columns"]["answer"] in s["completion"])}} for s in samples]
    writer.write(json_answer({"scores": scores, "fingerprints": {"exact": "f"}}))


async def ask(gateway: Any, count: int, **fields: Any) -> None:
    async with client(gateway) as http:
        for number in range(count):
            given = ASK | {"user": f"u{number}", "metadata": {"answer": "three"}} | fields
            assert (await http.post(CHAT, json=given)).status_code == 200


async def test_answers_of_a_rollout_are_measured_and_graded(tmp_path: Path) -> None:
    async with scripted_engine(talks) as url, scripted_engine(service) as scoring:
        with serving(tmp_path, config=f'[rewards]\nurl = "{scoring}"\n') as gateway:
            gateway.start()
            published = Published(gateway, {"e0": url})
            published.publish(0.5, sample=1.0)
            await published.settled()
            await ask(gateway, 10, messages=[{"role": "user", "content": "marker-of-the-prompt"}])
            await ask(gateway, 10, stream=True)
            await eventually(lambda: _count(rows(gateway, tables.scores), "reward.exact") == 20)
            answers, shadows = await eventually(lambda: _all_answers(gateway, 20))
            await eventually(lambda: _count(rows(gateway, tables.shadow_pairs), "reward.exact") == shadows)
            stored, pairs = rows(gateway, tables.scores), rows(gateway, tables.shadow_pairs)
            versions = {a["id"]: a["version"] for a in rows(gateway, tables.assignments)}
            labels = {"route": "support", "version": OTHER}
            await eventually(lambda: gateway.metric("understudy_response_duplicate_ngram_ratio_sum", **labels) > 1)
            assert gateway.metric("understudy_response_compression_ratio_count", version=STABLE) > 0
            exact = {"arm": "stable", "grader": "exact", "version": STABLE}
            await eventually(lambda: gateway.metric("understudy_reward_score_sum", **exact) > 0)
            assert gateway.metric("understudy_events_dropped_total") == 0
            assert gateway.stop() == 0
    by_version = {v: [s for s in stored if versions[s["assignment"]] == v] for v in (STABLE, OTHER)}
    assert {s["value"] for s in by_version[STABLE] if s["metric"] == "reward.exact"} == {1.0}
    assert {s["value"] for s in by_version[OTHER] if s["metric"] == "reward.exact"} == {0.0}
    assert min(s["value"] for s in by_version[OTHER] if s["metric"] == "text.duplicate_4gram") > 0.5
    assert max(s["value"] for s in by_version[STABLE] if s["metric"] == "text.duplicate_4gram") == 0.0
    assert [s["value"] for s in by_version[OTHER] if s["metric"] == "text.repetition"][1:][0] == 1.0
    assert all(s["unit"] == answers[s["response_id"]]["unit"] for s in stored)
    assert {(p["stable"], p["candidate"]) for p in pairs if p["metric"] == "reward.exact"} == {(1.0, 0.0)}
    for path in [*gateway.data_dir.rglob("*"), gateway.log]:
        if path.is_file():
            assert b"marker-of-the-" not in path.read_bytes(), path


def _all_answers(gateway: Any, users: int) -> tuple[dict[str, Any], int] | None:
    """The records by id, and how many are the shadow's, once those are there that must be: it gets stable's prompts."""
    versions = {a["id"]: a["version"] for a in rows(gateway, tables.assignments)}
    found = rows(gateway, tables.responses)
    own = [r for r in found if not r["flags"] & Flag.SHADOW]
    shadows = sum(versions[r["assignment"]] == STABLE for r in own)
    return ({r["response_id"]: r for r in found}, shadows) if len(own) == users == len(found) - shadows else None


def _count(found: list[dict[str, Any]], metric: str) -> int:
    return sum(row["metric"] == metric for row in found)


async def test_outside_rollouts_a_share_is_measured_and_a_service_that_is_away_costs_only_scores(
    tmp_path: Path,
) -> None:
    async with scripted_engine(talks) as url:
        with serving(tmp_path, config='[rewards]\nurl = "http://127.0.0.1:9"\nsample = 1.0\n') as gateway:
            gateway.start()
            await routed(gateway, {"e0": url})
            await ask(gateway, 6)
            await eventually(lambda: gateway.metric("understudy_response_compression_ratio_count") == 6)
            await eventually(lambda: _count(rows(gateway, tables.scores), "text.tokens") == 6)
            assert {s["metric"].partition(".")[0] for s in rows(gateway, tables.scores)} == {"text"}
            assert gateway.stop() == 0
            assert "Traceback" not in gateway.log.read_text()


class Slow:
    """A recorder and writer that count; nothing is stored."""

    def __init__(self) -> None:
        self.dropped: dict[str, int] = {}

    def events_dropped(self, kind: str, count: int = 1) -> None:
        self.dropped[kind] = self.dropped.get(kind, 0) + count


def done(size: int) -> Any:
    from types import SimpleNamespace

    request = SimpleNamespace(body=b"x" * size, endpoint=SimpleNamespace(name="chat"))
    return SimpleNamespace(answer=json.dumps({"choices": []}).encode(), exchange=SimpleNamespace(request=request))


@pytest.mark.parametrize(("size", "fit"), [(10, evidence.CAPACITY), (32 * 1024**2, 2)])
async def test_what_waits_is_bounded_in_number_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch, size: int, fit: int
) -> None:
    looks: list[Any] = []
    monkeypatch.setattr(Evidence, "_look", lambda _, item: looks.append(item))
    counted = Slow()
    looked = Evidence(counted, counted, None)  # type: ignore[arg-type]  # only drops are of interest
    one = done(size)
    for _ in range(fit + 7):
        looked.offer(one)
    assert counted.dropped == {EventKind.TEXT: 7} and looks == []  # nothing happens before the loop is free
    await eventually(lambda: len(looks) == fit)
    looked.offer(one)  # … and there is room again
    looked.close()
    assert len(looks) == fit + 1


async def test_an_odd_answer_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []

    def look(_: Evidence, item: Any) -> None:
        looks.append(item)
        raise ValueError("odd")

    monkeypatch.setattr(Evidence, "_look", look)
    looked = Evidence(Slow(), Slow(), None)  # type: ignore[arg-type]  # nothing is stored
    for _ in range(3):
        looked.offer(done(10))
    await eventually(lambda: len(looks) == 3)
