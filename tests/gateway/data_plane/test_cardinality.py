"""No client can add a label value: whatever it sends, the series are those of the configuration and the enums."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from monitors import conventions as c
from tests.support.serving import ASK, BASE, CHAT, OTHER, STABLE, Gateway, obliging, routed, scripted_engine, serving
from tests.support.waiting import PATIENCE

PATHS = (CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings")
NAMES = ("x-understudy-unit", "x-understudy-route", "x-understudy-version", "x-understudy-arm", "x-request-id",
         "user-agent", "traceparent", "authorization", "x-forwarded-for", "host")  # fmt: skip
ALLOWED = {
    "route": {"", "support", "base"}, "version": {"", STABLE, OTHER, BASE}, "arm": {a.value for a in c.ArmName},
    "endpoint": {e.value for e in c.Endpoint}, "outcome": {o.value for o in c.Outcome},
    "type": {t.value for t in c.TokenType}, "kind": {k.value for k in (*c.EventKind, *c.FeedbackKind)},
    "reason": {r.value for r in c.LimitReason}, "engine": {"e0"},
}  # fmt: skip

ROUTED = {("", "", ""), ("support", STABLE, "stable"), ("support", OTHER, "candidate"), ("base", BASE, "base"),
          ("support", STABLE, "pinned")}  # fmt: skip


def series(gateway: Gateway) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Every series on the metrics port, without its value."""
    text = httpx.get(f"http://127.0.0.1:{gateway.metrics_port}/metrics", timeout=30).text
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples}


class Hostile:
    """Odd values of every length, each of them new; all printable."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def word(self) -> str:
        """Something that looks like a route, a version, or like a label that breaks out of its quotes."""
        tail = f"{self._random.getrandbits(64):016x}"
        made = ("r{0}", "support@{0:.12}", 'x"}} {0}="1', "a{0}\\\\n", "support/{0}", "é{0}", "{0}" * 40, "base@{0:.12}")
        return self._random.choice(made).format(tail)

    def body(self) -> Any:
        """A request with such words wherever a client may write one."""
        word = self.word
        body: dict[str, Any] = ASK | {"user": word(), "metadata": {word()[:60]: word()}, "max_tokens": 5}
        changes = ({"model": word()}, {word(): word()}, {"stream": word()}, {"model": {word(): 1}}, {"messages": word()},
                   {"stream": True}, {"tools": [{"type": word()}]}, {"service_tier": word()}, {"n": 10**6}, {})  # fmt: skip
        return body | self._random.choice(changes)

    def headers(self) -> dict[str, str]:
        """Headers that the gateway reads, with such words."""
        chosen = self._random.sample(NAMES, 3)
        return {name: self.word().encode("ascii", "replace").decode() for name in chosen if name != "host"}

    def request(self, good: str) -> tuple[str, str, Any, dict[str, str]]:
        """(method, path, body, headers); `good`: the id of an answer."""
        word, pick = self.word, self._random.choice
        feedback = {"response_id": pick((good, word())), "score": pick((1, 0.5, 7, word())), "kind": pick(("thumb", word()))}
        return pick((
            ("POST", pick(PATHS), self.body(), self.headers()),
            ("POST", pick(PATHS), self.body(), {}),
            ("POST", "/v1/feedback", feedback, {}),
            ("POST", f"/v1/{word()[:50]}", {}, {}),
            ("GET", f"/v1/models/{word()[:50]}", None, self.headers()),
            (pick(("PUT", "DELETE", "PATCH", "BREW")), pick(PATHS), {}, {}),
        ))  # fmt: skip


async def hammer(gateway: Gateway, seed: int, count: int = 240) -> set[int]:
    """So many hostile requests, some at once; the statuses."""
    hostile, seen = Hostile(seed), set()
    limits = httpx.Limits(max_keepalive_connections=8, max_connections=8)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, limits=limits) as http:
        good = (await http.post(CHAT, json=ASK)).json()["id"]

        async def one() -> None:
            method, path, body, headers = hostile.request(good)
            content = None if body is None else json.dumps(body).encode()
            answer = await http.request(method, path.encode("ascii", "replace").decode(), content=content, headers=headers)
            seen.add(answer.status_code)

        for _ in range(count // 20):
            await asyncio.gather(*(one() for _ in range(20)))
    return seen


async def test_a_hostile_client_cannot_add_a_label_value(tmp_path: Path) -> None:
    with serving(tmp_path, workers=2) as gateway:
        async with scripted_engine(obliging) as url:
            gateway.publish({"e0": url}, share=0.3)
            gateway.start("/readyz")
            await routed(gateway, {"e0": url}, share=0.3)
            statuses = await hammer(gateway, seed=1) | await hammer(gateway, seed=2)
            assert {200, 202, 400, 404, 405} <= statuses and 500 not in statuses
            found = series(gateway)
            for name, labels in found:
                for label, value in labels:
                    if label == "code":
                        assert value in {"200", *(str(status) for status in range(400, 505))}
                    elif label != "le" and name != "understudy_build_info":
                        assert value in ALLOWED[label], (name, labels)
            # Not even every combination of those: only what is routed, times five endpoints.
            kinds = {tuple(dict(labels)[key] for key in ("route", "version", "arm")) for _, labels in found
                     if "arm" in dict(labels)}  # fmt: skip
            assert kinds <= ROUTED
