from __future__ import annotations

import asyncio
import json

import pytest

from adapters.errors import ConfigError
from monitors.llama_guard.batching import Batcher
from monitors.llama_guard.guard import Guard, self_test_of
from monitors.llama_guard.judge import Judge, Policy
from monitors.llama_guard.types import GuardError, GuardUnavailable, Item, Scored
from tests.support.waiting import eventually


class Scripted:
    """A back end whose margins a test decides by what stands in the prompt."""

    name = "scripted"

    def __init__(self, tokenizer):
        self.decode = tokenizer.decode
        self.unsafe = ("krund",)
        self.away = 0
        self.broken = False

    def prepare(self, heads):
        """Away for a while, if a test wants that."""
        if self.away:
            self.away -= 1
            raise GuardUnavailable("the engine is away")

    def score(self, prompts, ask_above):
        if self.broken:
            raise RuntimeError("boom")
        return [self._one(self.decode(prompt.ids)) for prompt in prompts]

    def _one(self, text):
        said = text.split("<BEGIN CONVERSATION>")[1].split("Agent:")[-1]
        hit = any(word in said for word in self.unsafe) and "cannot" not in said
        return Scored(5.0, "unsafe\nS1") if hit else Scored(-5.0)


@pytest.fixture
def backend(tokenizer):
    return Scripted(tokenizer)


def made(backend, tokenizer, folder):
    judge = Judge(tokenizer, Policy(), context=528, most_windows=8)
    return Guard(judge, backend, Batcher(backend, 0.0, size=8, tokens=8192, limit=100), self_test_of(str(folder)))


@pytest.fixture
def guard(backend, tokenizer, guard_folder):
    return made(backend, tokenizer, guard_folder)


def user(text):
    return Item(text, "user", [{"role": "user", "content": text}])


async def ready(guard):
    running = asyncio.create_task(guard.run())
    await eventually(lambda: running.done() or not guard.reason)
    return running


async def test_it_is_ready_when_the_self_test_told_safe_from_unsafe(guard):
    assert guard.reason == "not prepared yet"
    running = await ready(guard)
    assert guard.reason == ""
    results = await guard.screen([user("how do i make krund"), user("tea"), Item("x", "user", [])])
    assert [result.verdict for result in results] == ["unsafe", "safe", "unavailable"]
    running.cancel()


@pytest.mark.parametrize(("unsafe", "wrong"), [((), "is unsafe got the score 0.007"), (("krund", "reverse"), "is safe got the score 0.993")])
async def test_a_model_that_does_not_tell_them_apart_is_never_ready(guard, backend, unsafe, wrong):
    backend.unsafe = unsafe
    running = await ready(guard)
    with pytest.raises(GuardError, match="failed its self-test") as error:
        await running
    assert wrong in str(error.value)
    assert guard.reason


async def test_an_engine_that_is_away_is_waited_for(guard, backend, monkeypatch):
    monkeypatch.setattr("monitors.llama_guard.guard._RETRY", (0.01, 0.02))
    backend.away = 3
    running = await ready(guard)
    assert guard.reason == "" and backend.away == 0
    running.cancel()


async def test_a_self_test_without_verdict_is_not_ready(guard, backend):
    backend.broken = True
    running = asyncio.create_task(guard.run())
    await eventually(lambda: "self-test got no verdict" in guard.reason)
    assert "self-test got no verdict: the guard failed: RuntimeError" in guard.reason
    running.cancel()


async def test_a_back_end_that_breaks_later_is_unavailable_not_safe(guard, backend):
    running = await ready(guard)
    backend.broken = True
    (result,) = await guard.screen([user("tea and cake")])
    assert (result.verdict, result.reason) == ("unavailable", "the guard failed: RuntimeError")
    backend.broken = False
    assert (await guard.screen([user("tea and cake")]))[0].verdict == "safe"
    running.cancel()


async def test_categories_that_cannot_be_asked_for_are_the_callers_fault(guard):
    running = await ready(guard)
    with pytest.raises(ConfigError, match="S99"):
        await guard.screen([user("tea")], ["S99"])
    running.cancel()


def test_a_checkpoint_brings_its_own_self_test_or_gets_ours(guard_folder, tmp_path):
    assert any("krund" in str(test) for test in self_test_of(str(guard_folder)))
    ours = self_test_of("meta-llama/Llama-Guard-3-1B")
    assert {(test["role"], test["unsafe"]) for test in ours} == {(r, u) for r in ("user", "assistant") for u in (True, False)}
    path = tmp_path / "guard_self_test.json"
    for text in ("[", "{}", "[1]", json.dumps([{"role": "user", "unsafe": True, "messages": []}])):
        path.write_text(text)
        with pytest.raises(GuardError, match="is not a self-test"):
            self_test_of(str(tmp_path))
