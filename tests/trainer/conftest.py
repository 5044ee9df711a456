"""Fixtures of the trainer's tests: demo adapters, made once, and a real vLLM."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.engine import RealEngine


class Engine:
    """A real vLLM that serves the demo base, driven directly."""

    def __init__(self, url: str) -> None:
        socket = url.removeprefix("unix:")
        transport = httpx.HTTPTransport(uds=socket) if socket != url else None
        self.http = httpx.Client(base_url="http://engine" if transport else url, transport=transport, timeout=120)
        listed = self.http.get("/v1/models").raise_for_status().json()["data"]
        self.base = next(str(model["id"]) for model in listed if model.get("parent") is None)
        self.loaded: list[str] = []

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body).raise_for_status()

    def load(self, name: str, path: Path) -> None:
        self.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path))
        self.loaded.append(name)

    def unload_all(self) -> None:
        while self.loaded:
            self.post("/v1/unload_lora_adapter", lora_name=self.loaded.pop())

    def logprobs(self, model: str, prefixes: Any) -> list[dict[int, float]]:
        """The 20 likeliest next tokens after each prefix of token ids: id → logprob."""
        body = {"prompt": [list(p) for p in prefixes], "max_tokens": 1, "temperature": 0, "logprobs": 20}
        choices = self.post("/v1/completions", model=model, return_tokens_as_token_ids=True, **body).json()["choices"]
        return [
            {int(token.removeprefix("token_id:")): value for token, value in c["logprobs"]["top_logprobs"][0].items()}
            for c in sorted(choices, key=lambda choice: choice["index"])
        ]

    def replies(self, model: str, prompts: Any, temperature: float) -> list[str]:
        """One chat reply for each prompt."""
        texts = []
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            answer = self.post("/v1/chat/completions", model=model, messages=messages, temperature=temperature, seed=1)
            texts.append(answer.json()["choices"][0]["message"]["content"] or "")
        return texts


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """At this size two threads of torch are no quicker, and they wait for each other where the cores are shared."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture
def engine(real_engine: RealEngine) -> Iterator[Engine]:
    """The session's vLLM; what a test loads is taken off again."""
    found = Engine(real_engine.url)
    yield found
    found.unload_all()


@pytest.fixture(scope="session")
def demo_answers() -> tuple[Any, list[str]]:
    """400 held-out prompts of the demo's tasks, and the base's sampled reply to each."""
    import torch

    from trainer.demo import measure, world
    from trainer.model import load_base

    torch.set_num_threads(1)
    asked = world.examples(400, 7, "held_out")
    return asked, measure.sample(load_base("demo"), [example.prompt for example in asked])
