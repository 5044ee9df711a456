"""A real vLLM behind the gate: what is safe passes as without it, what is not is refused and costs the engine nothing."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.guard import GuardService
from tests.support.ports import free_port
from tests.support.serving import ROOT
from tests.support.stack import Stack
from tests.support.talking import UNSAFE_ASK
from tests.test_against_engine import events, plain, shapes, texts

pytestmark = pytest.mark.engine

ASK = "reverse abcd"
ENDPOINTS: dict[str, dict[str, Any]] = {
    "chat/completions": {"max_tokens": 24},
    "completions": {"max_tokens": 24},
    "responses": {"max_output_tokens": 24},
    "messages": {"max_tokens": 24},
}
REFUSED = {  # where each endpoint says it, streamed or not
    "chat/completions": b'"content_filter"',
    "completions": b'"content_filter"',
    "responses": b'"content_filter"',
    "messages": b'"refusal"',
}
STREAMED = (False, True)


def asked(path: str, text: str, stream: bool) -> dict[str, Any]:
    """A greedy request that says `text`."""
    turns = [{"role": "user", "content": text}]
    said = {"completions": {"prompt": text}, "responses": {"input": text}}.get(path, {"messages": turns})
    # Only the answer is the same each time; what asks for a usage gets it in either case.
    return {"model": "support", "temperature": 0, "seed": 1, **said, **ENDPOINTS[path], "stream": stream}


@pytest.fixture(scope="module")
def screened(stack: Stack, guard: GuardService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A second data plane of the running stack, which screens."""
    directory = tmp_path_factory.mktemp("screened")
    port, config = free_port(), directory / "understudy.toml"
    own = f"[gateway]\nport = {port}\nmetrics_port = 0\nworkers = 1\nrequire_keys = true\n[control]"
    text = re.sub(r"\[gateway\].*?\[control\]", own, stack.config.read_text(), count=1, flags=re.DOTALL)
    config.write_text(f'{text}\n[screening]\nmode = "enforce"\nurl = "{guard.url}"\ncheckpoint = 8\ntimeout = "60s"\n')
    with (directory / "serve.log").open("wb") as log:
        command = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    key = {"authorization": f"Bearer {stack.key}"}
    if guard.process is None or guard.process.poll() is not None:
        guard.start()  # the drills have killed it
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=key) as client:
            wait_ready(client, process, directory / "serve.log")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120  # a process, and then its worker
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(("path", "stream"), list(itertools.product(ENDPOINTS, STREAMED)))
def test_what_is_safe_is_what_it_was(stack: Stack, screened: httpx.Client, path: str, stream: bool) -> None:
    """A busy engine may put several tokens into one event: then the streams say the same."""
    body = asked(path, ASK, stream)
    with httpx.Client(base_url=stack.url, timeout=60, headers=screened.headers) as open_gateway:
        for _ in range(5):
            through = screened.post(f"/v1/{path}", json=body)
            alone = open_gateway.post(f"/v1/{path}", json=body)
            assert through.status_code == alone.status_code == 200
            mine, its = plain(through.content), plain(alone.content)
            if mine == its:
                return
            assert stream, (mine, its)
    assert len(events(mine)) > 1 and shapes(mine) == shapes(its) and texts(mine) == texts(its)


@pytest.mark.parametrize(("path", "stream"), list(itertools.product(ENDPOINTS, STREAMED)))
def test_what_is_unsafe_is_refused(screened: httpx.Client, path: str, stream: bool) -> None:
    answer = screened.post(f"/v1/{path}", json=asked(path, UNSAFE_ASK, stream))
    assert answer.status_code == 200 and REFUSED[path] in answer.content, answer.text
    assert answer.headers["x-understudy-version"].startswith("support@")
    if stream and path in ("chat/completions", "completions"):
        assert answer.content.endswith(b"data: [DONE]\n\n")
