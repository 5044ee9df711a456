"""A real vLLM, asked directly and through the gateway: the same bytes, but for what is documented.

Greedy and seeded. What differs from one run to the next anyway (times, ids the engine draws) is replaced first.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack

pytestmark = pytest.mark.engine

TURNS: list[Any] = [{"role": "user", "content": "reverse abcd"}]
TOOL: dict[str, Any] = {"name": "pick", "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2]}}}}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"messages": TURNS, "max_tokens": 12}),
    ("chat/completions", {"messages": TURNS, "max_tokens": 6, "n": 2, "logprobs": True, "top_logprobs": 2}),
    ("chat/completions", {"messages": TURNS, "max_tokens": 40, "tools": [{"type": "function", "function": TOOL}],
                          "tool_choice": {"type": "function", "function": {"name": "pick"}}}),
    ("completions", {"prompt": ["reverse ab", "sort ba"], "max_tokens": 8, "logprobs": 1}),
    ("responses", {"input": "reverse abcd", "max_output_tokens": 12}),
    ("messages", {"messages": TURNS, "max_tokens": 12}),
    ("embeddings", {"input": "reverse abcd"}),
    ("chat/completions", {"messages": "not a list"}),
    ("chat/completions", {"messages": TURNS, "max_tokens": -1}),
]  # fmt: skip
GREEDY = {"temperature": 0, "seed": 1}
_TIMES = re.compile(rb'"(created|created_at|completed_at)":\s*[\d.]+')
_COUNTED = re.compile(rb'"sequence_number":\d+')
# vLLM puts it into the usage event where one is asked for, so it goes with the one that only the gateway asked for.
_FINGERPRINT = re.compile(rb',"system_fingerprint":"[^"]*"')
_DRAWN = re.compile(rb'"((?:resp|msg|rs|fc|chatcmpl|cmpl|call|chatcmpl-tool)[-_])[A-Za-z0-9_-]{8,}"')


def plain(answer: bytes) -> bytes:
    """Without times and drawn ids."""
    return _FINGERPRINT.sub(b"", _DRAWN.sub(rb'"\1drawn"', _TIMES.sub(rb'"\1":0', answer)))


def direct(stack: Stack) -> httpx.Client:
    """A client of the engine itself."""
    url = stack.engines()[0]["url"]
    if url.startswith("unix:"):
        return httpx.Client(base_url="http://engine", transport=httpx.HTTPTransport(uds=url[5:]), timeout=60)
    return httpx.Client(base_url=url, timeout=60)


def events(stream: bytes) -> list[bytes]:
    return [event for event in stream.split(b"\n\n") if event]


def shapes(stream: bytes) -> set[str]:
    """Which keys the events of a stream have, however the engine put tokens together."""
    found = set()
    for event in events(stream):
        data = event.partition(b"data: ")[2]
        found.add(data.decode() if data == b"[DONE]" else " ".join(sorted(json.loads(data))))
    return found


def texts(stream: bytes) -> dict[int, str]:
    """What the deltas of each choice say together."""
    found: dict[int, str] = {}
    for event in events(stream):
        body = event.partition(b"data: ")[2]
        fields = {} if body == b"[DONE]" else json.loads(body)
        for choice in fields.get("choices", []):
            said = choice.get("text", "") + (choice.get("delta", {}).get("content") or "")
            found[choice["index"]] = found.get(choice["index"], "") + said
        delta = fields.get("delta", "")
        said = delta if isinstance(delta, str) else delta.get("text", "")
        found[0] = found.get(0, "") + said
    return found


@pytest.mark.parametrize(("number", "stream"), list(itertools.product(range(len(ASKED)), (False, True))))
def test_the_gateway_adds_and_takes_nothing(stack: Stack, number: int, stream: bool) -> None:
    """A busy engine puts several tokens into one event, and of several choices any first: then the streams say the same."""
    path, fields = ASKED[number]
    version = stack.versions["A"]
    body = {**fields, **(GREEDY if path != "embeddings" else {}), **({"stream": True} if stream else {})}
    with direct(stack) as engine, httpx.Client(base_url=stack.url, timeout=60) as gateway:
        for _ in range(5):
            key = {"authorization": f"Bearer {stack.key}"}
            through = gateway.post(f"/v1/{path}", json={"model": "support", **body}, headers=key)
            alone = engine.post(f"/v1/{path}", json={"model": version, **body})
            assert through.status_code == alone.status_code
            if alone.status_code != 200:
                assert set(through.json()) == {"error"} and version not in through.text
                return
            assert through.headers["content-type"] == alone.headers["content-type"]
            mine, its = plain(through.content), plain(alone.content).replace(f'"{version}"'.encode(), b'"support"')
            if mine == its:
                return
            assert stream, (mine, its)
    last = [_COUNTED.sub(b"", events(answer)[-1]) for answer in (mine, its)]
    assert last[0] == last[1] and shapes(mine) == shapes(its) and texts(mine) == texts(its)
