"""A real vLLM takes mirrored requests: their priority, on every endpoint that generates."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters import tables
from adapters.types import Flag
from tests.support.engine import RealEngine
from tests.support.rollouts import Published, rows
from tests.support.serving import client, serving
from tests.support.waiting import eventually

HI = [{"role": "user", "content": "Upper-case: abc"}]
REQUESTS = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 4, "stream": True, "n": 2},
    "/v1/completions": {"prompt": "Upper-case: abc", "max_tokens": 4, "best_of": 1},
    "/v1/responses": {"input": "Upper-case: abc", "max_output_tokens": 4, "instructions": "Answer briefly."},
    "/v1/messages": {"messages": HI, "max_tokens": 4, "system": "Answer briefly."},
}


@pytest.mark.engine
async def test_every_endpoint_can_be_mirrored(tmp_path: Path, real_engine: RealEngine) -> None:
    with serving(tmp_path) as gateway:
        gateway.start()
        published = Published(gateway, {"e0": real_engine.url}, models=("base", "base"))
        published.publish(0.0, sample=1.0, timeout=60.0)
        await published.settled()
        async with client(gateway) as http:
            for path, fields in REQUESTS.items():
                answer = await http.post(path, json={"model": "support", "temperature": 1.0} | fields, timeout=60)
                assert answer.status_code == 200, answer.text
        await eventually(lambda: len(rows(gateway, tables.responses)) == 2 * len(REQUESTS), seconds=60)
        shadows = [r for r in rows(gateway, tables.responses) if r["flags"] & Flag.SHADOW]
        assert {r["endpoint"]: r["status"] for r in shadows} == dict.fromkeys(
            ("chat", "completions", "responses", "messages"), 200
        )
        assert all(r["output_tokens"] for r in shadows)
        await eventually(lambda: len({p["response_id"] for p in rows(gateway, tables.shadow_pairs)}) == len(REQUESTS))
        assert gateway.metric("understudy_shadow_total", outcome="ok") == len(REQUESTS)
