"""Fixtures of the trainer's tests: demo adapters, made once, and a real vLLM."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.base import resolve_base


class Engine:
    """A real vLLM with the demo base as "base" and room for adapters."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body).raise_for_status()

    def load(self, name: str, path: Path) -> None:
        self.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(path))

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


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("engine") / "vllm.log"
    settings = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    }
    options = (
        f"--model {resolve_base('demo')} --served-model-name base --enable-lora --max-loras 4 --max-lora-rank 16 "
        f"--max-model-len 256 --enforce-eager --host 127.0.0.1 --port {port}"
    )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options.split()]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        started = Engine(f"http://127.0.0.1:{port}")
        _wait(started, process, log)
        yield started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever of the group is left
            process.wait()


def _wait(engine: Engine, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if engine.http.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}", pytrace=False)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One adapter of each kind on the demo base: "sft", "A:" and "B:"."""
    from trainer.demo.adapters import make_adapter

    folder = tmp_path_factory.mktemp("adapters")
    return {
        "sft": make_adapter(folder / "sft", "sft"),
        "A:": make_adapter(folder / "a", "marker", text="A:"),
        "B:": make_adapter(folder / "b", "marker", text="B:"),
    }
