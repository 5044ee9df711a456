"""The vLLM back end: its wire against scripted answers, and the same verdicts from a real vLLM on the same weights."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from monitors.llama_guard.judge import Judge, Policy
from monitors.llama_guard.types import GuardError, GuardUnavailable, Item, Prompt
from monitors.llama_guard.vllm_backend import VllmBackend
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE
from trainer.demo import guard_world


class Engine:
    """An engine over a real socket whose next answers a test writes."""

    def __init__(self):
        self.asked, self.answers = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"] or 0))
                outer.asked.append((dict(self.headers), json.loads(body)))
                status, answer = outer.answers.pop(0)
                self._send(status, answer)

            def do_GET(self):
                self._send(200, {"data": [{"id": "guard"}]})

            def _send(self, status, answer):
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def engine():
    made = Engine()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def ids(tokenizer):
    return {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("safe", "unsafe")}


@pytest.fixture
def backend(engine, tokenizer):
    made = VllmBackend(engine.url, "", tokenizer, api_key="secret", timeout=PATIENCE)
    made.prepare([])
    return made


def told(ids, *unsafe):
    choices = [
        {"index": n, "logprobs": {"top_logprobs": [{f"token_id:{ids['unsafe']}": math.log(p), f"token_id:{ids['safe']}": math.log(1 - p)}]}}
        for n, p in enumerate(unsafe)
    ]
    return 200, {"choices": choices[::-1]}


PROMPTS = [Prompt((5, n), codes=("S1", "S2")) for n in range(3)]


def test_one_token_is_asked_for_and_categories_only_above_the_margin(engine, backend, ids, tokenizer):
    engine.answers = [told(ids, 0.1, 0.9, 0.6), (200, {"choices": [{"index": 0, "text": "S2\n", "finish_reason": "stop"}]})]
    scored = backend.score(PROMPTS, math.log(0.8 / 0.2))
    assert [one.margin for one in scored] == pytest.approx([math.log(1 / 9), math.log(9), math.log(1.5)])
    assert [one.written for one in scored] == [None, "unsafe\nS2\n", None]
    (headers, first), (_, second) = engine.asked
    assert headers["authorization"] == "Bearer secret"
    assert (first["prompt"], first["max_tokens"], first["logprobs"], first["temperature"]) == ([[5, 0], [5, 1], [5, 2]], 1, 20, 0.0)
    assert first["model"] == "guard" and first["return_tokens_as_token_ids"]
    assert second["prompt"] == [[5, 1, *tokenizer("unsafe\n", add_special_tokens=False)["input_ids"]]]


def test_a_list_without_end_names_no_category(engine, backend, ids):
    engine.answers = [told(ids, 0.9), (200, {"choices": [{"index": 0, "text": "S1,S1,", "finish_reason": "length"}]})]
    assert backend.score(PROMPTS[:1], 0.0)[0].written == ""


@pytest.mark.parametrize("choice", [
    {"index": 0}, {"index": 0, "logprobs": None}, {"index": 0, "logprobs": {"top_logprobs": [{"safe": -0.1}]}},
    {"index": 0, "logprobs": {"top_logprobs": [{"token_id:700": -0.1}]}},
])  # fmt: skip
def test_an_answer_without_a_verdict_gives_none(engine, backend, choice):
    engine.answers = [(200, {"choices": [choice]})]
    assert backend.score(PROMPTS[:1], 0.0)[0].margin is None


@pytest.mark.parametrize(("answer", "kind"), [
    ((503, b"busy"), GuardUnavailable), ((400, b"no such model"), GuardError), ((200, b"<html>"), GuardError),
    ((200, {"choices": []}), GuardError), ((200, b"[]"), GuardError),
])  # fmt: skip
def test_rubbish_and_refusals_are_errors_never_verdicts(engine, backend, answer, kind):
    engine.answers = [answer]
    with pytest.raises(kind, match=r"vLLM at http://127"):
        backend.score(PROMPTS[:1], 0.0)


def test_an_engine_that_is_away_or_serves_another_model(engine, tokenizer):
    with pytest.raises(GuardError, match=r"serves \['guard'\]: set screening\.vllm_model"):
        VllmBackend(engine.url, "other", tokenizer).prepare([])
    with pytest.raises(GuardUnavailable, match="is away"):
        VllmBackend(f"http://127.0.0.1:{free_port()}", "", tokenizer).prepare([])


@contextlib.contextmanager
def real_vllm(model, log):
    port = free_port()
    command = [
        sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", "guard",
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "bfloat16",
    ]  # fmt: skip
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 540
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.long
def test_a_real_vllm_gives_the_same_verdicts_on_the_same_weights(guard_folder, tokenizer, tmp_path):
    from monitors.llama_guard.scorer import TransformersBackend

    judge = Judge(tokenizer, Policy(), context=528, most_windows=8)
    here = TransformersBackend(str(guard_folder), tokenizer, device="cpu")
    here.prepare(judge.heads)
    prompts = []
    for example in guard_world.examples(120, 21, "held_out"):
        role = "assistant" if example.kind == "answer" else "user"
        messages = [{"role": "tool", "content": example.text}] if example.kind == "data" else example.messages
        prompts.append(judge.questions(Item("", role, messages))[-1].prompt)
    mine = here.score(prompts, 0.0)
    with real_vllm(guard_folder, tmp_path / "vllm.log") as url:
        there = VllmBackend(url, "", tokenizer, timeout=120)
        there.prepare(judge.heads)
        theirs = there.score(prompts, 0.0)
    assert all(one.margin is not None for one in (*mine, *theirs))
    clear = [(a, b) for a, b in zip(mine, theirs, strict=True) if abs(a.margin) > 0.5]
    assert len(clear) > 0.95 * len(prompts)
    assert all((a.margin > 0) == (b.margin > 0) for a, b in clear)
    unsafe = [(a, b) for a, b in clear if a.written is not None]
    assert len(unsafe) > 30
    # bf16 may tip a near tie between two categories; it may not change what they are as a rule
    assert sum(a.written == b.written for a, b in unsafe) >= 0.95 * len(unsafe)
    gaps = sorted(abs(a.margin - b.margin) for a, b in zip(mine, theirs, strict=True) if abs(a.margin) < 8)
    print(f"margins differ by {gaps[len(gaps) // 2]:.3f} (median), {gaps[-1]:.3f} (largest) of {len(gaps)}")
