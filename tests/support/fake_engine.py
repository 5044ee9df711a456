"""A small engine with a real HTTP interface that speaks vLLM's control endpoints, and misbehaves on demand.

Its "weights" are the bytes of adapter_model.safetensors: the same bytes always give the same logprobs, so probes can
be recorded without a model (fake_weights.py). It runs in a thread; fake_vllm.py runs it as a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from tests.support.fake_weights import BASE_KEY, logprobs, weights_key

_starts = itertools.count()


@dataclass
class Misbehaviour:
    """What goes wrong; by version where that makes sense."""

    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)   # load answers this status and message
    ignore: set[str] = field(default_factory=set)                      # listed, but answers like the base
    unlisted: set[str] = field(default_factory=set)                    # 200, but never listed
    elsewhere: dict[str, str] = field(default_factory=dict)            # listed with this root
    nan: set[str] = field(default_factory=set)                         # its logprobs, and all after it, are NaN
    slow: float = 0.0                                                  # seconds a load takes
    held_up: set[str] = field(default_factory=set)                     # their loads take until they are taken out
    dead: bool = False                                                 # /health says 503
    hang: bool = False                                                 # nothing is answered
    garbage: bool = False                                              # /v1/completions without logprobs
    mixes: str = ""                                                    # the base answers with this version's weights
    in_use: set[str] = field(default_factory=set)                      # adapters with requests in flight
    failing: set[str] = field(default_factory=set)                     # chat answers 500
    wordy: int = 0                                                     # words that chat answers may have more, in turn


class Events(str):
    """An answer that is a stream of server-sent events."""

    __slots__ = ()


class FakeEngine:
    """One engine at `url`. `calls` lists what changed it, in order; `adapters`: name → path."""

    def __init__(self, socket_path: Path | None = None, *, base: str = "base") -> None:
        self.misbehave = Misbehaviour()
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, str]] = []
        self.chats: list[tuple[float, str]] = []                           # when which model was asked
        self.base = base
        self.boot = 0.0
        self.poisoned = False
        self.loading = 0
        self.most_loading = 0
        self.api_key = ""
        self._path = socket_path
        self._port = 0
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self.up = False

    @property
    def url(self) -> str:
        """Where to find it, also across restarts."""
        return f"unix:{self._path}" if self._path else f"http://127.0.0.1:{self._port}"

    def start(self) -> FakeEngine:
        """A new process, as far as anybody can tell: another boot, nothing loaded."""
        self.boot, self.adapters, self.poisoned = time.time() + next(_starts), {}, False
        config = uvicorn.Config(
            self._app, interface="asgi3", log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listen()]}, daemon=True)
        self._thread.start()
        deadline = time.monotonic() + 60
        while not self._server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert self._server.started
        self.up = True
        return self

    def stop(self) -> None:
        """Gone, as after kill -9."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join(10)
        if self._path:
            self._path.unlink(missing_ok=True)
        self._server, self.up = None, False

    def restart(self) -> None:
        """Stop and start at the same address."""
        self.stop()
        self.start()

    def loads(self, version: str) -> int:
        """How often `version` was loaded."""
        return self.calls.count(("load", version))

    def _listen(self) -> socket.socket:
        if self._path:
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self._path))
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            self._port = listener.getsockname()[1]
        return listener

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        while self.misbehave.hang:
            await asyncio.sleep(0.02)
        status, answer = await self._answer(scope, json.loads(body or b"{}"))
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        kind = b"text/plain" if isinstance(answer, str) else b"application/json"
        kind = b"text/event-stream" if isinstance(answer, Events) else kind
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: dict[str, Any], body: dict[str, Any]) -> tuple[int, Any]:
        given = dict(scope["headers"]).get(b"authorization", b"").decode()
        path = scope["path"]
        if path == "/health":
            return (503, "") if self.misbehave.dead else (200, "")
        if path == "/metrics":
            return 200, self._metrics()
        if self.api_key and given != f"Bearer {self.api_key}":
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            return 200, {"object": "list", "data": self._models()}
        if path == "/v1/load_lora_adapter":
            return await self._load(body["lora_name"], body["lora_path"])
        if path == "/v1/unload_lora_adapter":
            return self._unload(body["lora_name"])
        if path == "/v1/chat/completions":
            asked = dict(scope["headers"]).get(b"x-request-id", b"x").decode()
            return self._chat(body["model"], f"chatcmpl-{asked}", stream=body.get("stream") is True)
        if path == "/v1/completions":
            return self._complete(body["model"], body["prompt"])
        return 404, {"detail": "Not Found"}

    def _models(self) -> list[dict[str, Any]]:
        base = {"id": self.base, "object": "model", "root": "/models/base", "parent": None}
        wrong = self.misbehave
        shown = {n: wrong.elsewhere.get(n, p) for n, p in self.adapters.items() if n not in wrong.unlisted}
        return [base, *({"id": n, "object": "model", "root": p, "parent": self.base} for n, p in shown.items())]

    def _metrics(self) -> str:
        using = ",".join(sorted(self.misbehave.in_use))
        lines = [
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self.boot}",
            f'vllm:num_requests_running{{engine="0",model_name="{self.base}"}} {float(len(self.misbehave.in_use))}',
            f'vllm:num_requests_waiting{{engine="0",model_name="{self.base}"}} 0.0',
            'vllm:lora_requests_info{max_lora="4",running_lora_adapters="r@000000000000",waiting_lora_adapters=""} 1.0',
        ]
        if using:
            lines.append(
                f'vllm:lora_requests_info{{max_lora="4",running_lora_adapters="{using}",waiting_lora_adapters=""}} 2.0'
            )
        return "\n".join(lines) + "\n"

    async def _load(self, name: str, path: str) -> tuple[int, Any]:
        self.calls.append(("load", name))
        self.loading += 1
        self.most_loading = max(self.most_loading, self.loading)
        try:
            until = time.monotonic() + self.misbehave.slow
            while name in self.misbehave.held_up or (self.misbehave.slow and time.monotonic() < until):
                await asyncio.sleep(0.02)
        finally:
            self.loading -= 1
        if name in self.misbehave.refuse:
            status, message = self.misbehave.refuse[name]
            return status, {"error": {"message": message, "type": "InternalServerError", "param": None, "code": status}}
        if name in self.adapters:
            message = f"The lora adapter '{name}' has already been loaded."
            return 400, {"error": {"message": message, "type": "InvalidUserInput", "param": None, "code": 400}}
        if not (Path(path) / "adapter_model.safetensors").exists():
            return 404, {"error": {"message": f"No adapter found for {path}", "type": "NotFoundError", "code": 404}}
        self.adapters[name] = path
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, name: str) -> tuple[int, Any]:
        self.calls.append(("unload", name))
        if self.adapters.pop(name, None) is None:
            message = f"The lora adapter '{name}' cannot be found."
            return 404, {"error": {"message": message, "type": "NotFoundError", "param": None, "code": 404}}
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def _chat(self, model: str, number: str, *, stream: bool = False) -> tuple[int, Any]:
        self.chats.append((time.time(), model))
        if model in self.misbehave.failing:
            return 500, {"error": {"message": "it broke", "type": "InternalServerError", "param": None, "code": 500}}
        if stream:
            return 200, _streamed(model, number)
        words = 1 + len(self.chats) % (1 + self.misbehave.wordy)
        message = {"role": "assistant", "content": " ".join(["hello"] * words)}
        usage = {"prompt_tokens": 5, "completion_tokens": words, "total_tokens": 5 + words}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return 200, {"id": number, "object": "chat.completion", "model": model, "choices": [choice], "usage": usage}

    def _complete(self, model: str, prompts: list[list[int]]) -> tuple[int, Any]:
        if model != self.base and model not in self.adapters:
            message = f"The model `{model}` does not exist."
            return 404, {"error": {"message": message, "type": "NotFoundError", "param": "model", "code": 404}}
        if self.misbehave.garbage:
            return 200, {"choices": [{"index": 0, "text": "hello", "logprobs": None}]}
        if model in self.misbehave.nan:
            self.poisoned = True
        if self.poisoned:
            message = "Out of range float values are not JSON compliant: nan"
            return 400, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}
        if model == self.base and self.misbehave.mixes in self.adapters:
            model = self.misbehave.mixes
        plain = model == self.base or model in self.misbehave.ignore
        key = BASE_KEY if plain else weights_key(self.adapters[model])
        choices = []
        for index, prompt in enumerate(prompts):
            listed = {f"token_id:{t}": p for t, p in logprobs(key, tuple(prompt)).items()}
            choices.append({"index": index, "text": "x", "logprobs": {"top_logprobs": [listed]}})
        return 200, {"id": "cmpl-1", "object": "text_completion", "model": model, "choices": choices}


def _streamed(model: str, number: str) -> Events:
    """Two tokens and their usage; the gateway takes the usage away where the client did not ask for it."""
    deltas = [[{"index": 0, "delta": {"content": text}, "finish_reason": None}] for text in ("hel", "lo")]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    chunks = [{"choices": choices} for choices in deltas] + [{"choices": [], "usage": usage}]
    texts = [json.dumps({"id": number, "object": "chat.completion.chunk", "model": model} | c, separators=(",", ":"))
             for c in chunks]  # fmt: skip
    return Events("".join(f"data: {text}\n\n" for text in (*texts, "[DONE]")))


@contextlib.contextmanager
def fake_engine(socket_path: Path | None = None) -> Iterator[FakeEngine]:
    """A started FakeEngine, stopped whatever happens."""
    engine = FakeEngine(socket_path)
    try:
        yield engine.start()
    finally:
        engine.misbehave.hang = False
        engine.stop()
