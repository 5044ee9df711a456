"""The official OpenAI client against the running stack: what works with vLLM works the same through the gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.stack import Stack
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.engine

ASK: list[Any] = [{"role": "user", "content": "reverse abcd"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "pick",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "enum": [1, 2]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
def later(stack: Stack) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=0, timeout=60)


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**({"model": "support", "messages": ASK, "max_tokens": 16} | options))


def test_chat(client: openai.OpenAI, stack: Stack) -> None:
    raw = client.chat.completions.with_raw_response.create(model="support", messages=ASK, max_tokens=16, temperature=0)
    answer = raw.parse()
    assert answer.model == "support" and answer.id.startswith("chatcmpl-")
    assert raw.headers["x-understudy-version"] == stack.versions["A"]
    assert (answer.choices[0].message.content or "").startswith("A:")
    assert answer.usage is not None and answer.usage.total_tokens > 0


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = chat(client, temperature=0).choices[0].message.content
    chunks = list(chat(client, temperature=0, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole
    assert {c.model for c in chunks} == {"support"} and len({c.id for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")


def test_usage_in_a_stream_when_asked_for(client: openai.OpenAI) -> None:
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert last.usage.completion_tokens >= len(chunks) - 2 and not last.choices


def test_options_reach_the_engine(client: openai.OpenAI) -> None:
    several = chat(client, n=3, temperature=1.0, seed=7)
    assert len(several.choices) == 3
    again = chat(client, n=3, temperature=1.0, seed=7)
    assert [c.message.content for c in several.choices] == [c.message.content for c in again.choices]
    scored = chat(client, logprobs=True, top_logprobs=3)
    assert len(scored.choices[0].logprobs.content[0].top_logprobs) == 3
    stopped = chat(client, temperature=0, stop=[":"])
    assert stopped.choices[0].message.content == "A"
    extra = chat(client, extra_body={"min_tokens": 5, "ignore_eos": True, "max_tokens": 5})
    assert extra.usage.completion_tokens == 5


def test_structured_output(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    answer = chat(client, response_format=wanted, max_tokens=64)
    assert json.loads(answer.choices[0].message.content)["n"] in (1, 2)


def test_a_named_tool(client: openai.OpenAI) -> None:
    choice = {"type": "function", "function": {"name": "pick"}}
    answer = chat(client, tools=[TOOL], tool_choice=choice, max_tokens=120)
    call = answer.choices[0].message.tool_calls[0].function
    assert call.name == "pick" and json.loads(call.arguments)["n"] in (1, 2)


def test_completions_and_responses(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="support", prompt=["reverse ab", "sort ba"], max_tokens=4, logprobs=1)
    assert len(plain.choices) == 2 and plain.model == "support" and plain.id.startswith("cmpl-")
    pieces = list(client.completions.create(model="support", prompt="sort ba", max_tokens=4, stream=True))
    assert pieces and {p.model for p in pieces} == {"support"}
    answer = client.responses.create(model="support", input="reverse abcd", max_output_tokens=16, temperature=0)
    assert answer.output_text.startswith("A:") and answer.model == "support" and answer.id.startswith("resp_")
    events = list(client.responses.create(model="support", input="sort ba", max_output_tokens=8, stream=True))
    assert events[0].type == "response.created" and events[0].response.model == "support"
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_models(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"support", "other", "base"} <= names
    assert client.models.retrieve("support").id == "support"


def test_the_base_and_another_route_answer_differently(client: openai.OpenAI) -> None:
    texts = {m: chat(client, model=m, temperature=0).choices[0].message.content for m in ("support", "other", "base")}
    assert texts["support"].startswith("A:") and texts["other"].startswith("B:")
    assert not texts["base"].startswith(("A:", "B:"))


@pytest.mark.parametrize(
    ("options", "error", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"messages": "x"}, openai.BadRequestError, None),
        ({"temperature": -5}, openai.BadRequestError, None),
        ({"max_tokens": 10**6}, openai.BadRequestError, None),
        ({"n": 10**6}, openai.BadRequestError, None),
        ({"extra_body": {"prompt_logprobs": 1}}, openai.BadRequestError, "unsupported_parameter"),
        ({"extra_body": {"priority": 1}}, openai.BadRequestError, "unsupported_parameter"),
    ],
)
def test_errors_by_class(
    client: openai.OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], code: str | None
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as caught:
            chat(client, **(options | {"stream": stream}))
        assert caught.value.code == code
        assert isinstance(caught.value.body, dict) and caught.value.body["message"]


def test_wrong_keys_and_missing_endpoints(stack: Stack, client: openai.OpenAI) -> None:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key="us-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as caught:
            chat(stranger)
        assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="support", input="x")
    with pytest.raises(openai.NotFoundError):
        client.audio.speech.create(model="support", input="x", voice="alloy")


def test_timeouts_and_retries_are_the_clients_own(stack: Stack) -> None:
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=2, timeout=0.05) as hurried:
        began = time.monotonic()
        with pytest.raises(openai.APITimeoutError):  # hundreds of tokens take longer on any machine
            hurried.chat.completions.create(
                model="support", messages=ASK, max_tokens=220, n=4, extra_body={"ignore_eos": True}
            )
        assert time.monotonic() - began < 30


async def test_async_concurrency(later: openai.AsyncOpenAI) -> None:
    async def one(i: int) -> str:
        model, mark = (("support", "A:"), ("other", "B:"))[i % 2]
        text = ""
        async with await later.chat.completions.create(
            model=model, messages=ASK, max_tokens=16, stream=True, temperature=0
        ) as s:
            async for chunk in s:
                text += chunk.choices[0].delta.content or ""
        assert text.startswith(mark), text
        return text

    assert len(await asyncio.gather(*(one(i) for i in range(32)))) == 32
    await later.close()


async def answered_in_full(stack: Stack) -> float:
    """How many sequences the engines have finished at their full length (their own count)."""
    total = 0.0
    for engine in stack.engines():
        uds = engine["url"].removeprefix("unix:") if engine["url"].startswith("unix:") else None
        base = "http://engine" if uds else engine["url"]
        transport = httpx.AsyncHTTPTransport(uds=uds)
        async with httpx.AsyncClient(transport=transport, base_url=base, timeout=PATIENCE) as http:
            lines = (await http.get("/metrics")).text.splitlines()
        counts = [x for x in lines if x.startswith("vllm:request_success_total{") and 'finished_reason="length"' in x]
        assert counts, "the engine does not say why answers ended"
        total += sum(float(line.rsplit(" ", 1)[1]) for line in counts)
    return total


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelling_stops_the_engine(stack: Stack, later: openai.AsyncOpenAI, stream: bool) -> None:
    """None of eight long answers is written to its end. On a fast machine they may be, before we look: then once more."""
    long: Any = {"model": "support", "messages": ASK, "max_tokens": 230, "extra_body": {"ignore_eos": True}, "n": 4}

    async def ask() -> None:
        answer = await later.chat.completions.create(**long, stream=stream)
        if stream:
            async for _ in answer:
                pass

    async def cancelled() -> bool:
        """Ask, cancel, wait until the engine is idle; whether it was stopped in time."""
        before = await answered_in_full(stack)
        tasks = [asyncio.create_task(ask()) for _ in range(8)]
        while await stack.engine_running() < 8 and not any(task.done() for task in tasks):
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while await stack.engine_running() > 0:
            await asyncio.sleep(0.02)
        return await answered_in_full(stack) == before

    async with asyncio.timeout(PATIENCE):
        while not await cancelled():
            pass
    await later.close()


def test_feedback_on_an_answer(stack: Stack, client: openai.OpenAI) -> None:
    answer = chat(client, user="ann")
    given = {"response_id": answer.id, "score": 1, "kind": "thumb", "comment": "good"}
    headers = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=PATIENCE) as http:
        assert http.post("/v1/feedback", json=given).status_code == 202
        assert http.post("/v1/feedback", json=given | {"response_id": "x"}).status_code == 404
