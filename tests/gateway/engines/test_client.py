from __future__ import annotations

import json
import math

import httpx
import pytest

from adapters.errors import EngineError, EngineRefused, EngineUnavailable, ProbeFailed
from gateway.engines.client import EngineClient, timed_out
from tests.support.fake_engine import FakeEngine, fake_engine
from tests.support.fake_weights import BASE_KEY, PREFIXES, logprobs


async def test_load_list_probe_unload(engine: FakeEngine, make):
    assigned = make(1)
    async with EngineClient(engine.url) as client:
        await client.health()
        await client.load(assigned.version, assigned.path)
        models = await client.models()
        assert models["base"].parent is None
        assert models[assigned.version].root == assigned.path
        assert await client.probe("base", PREFIXES) == [logprobs(BASE_KEY, p) for p in PREFIXES]
        assert await client.probe(assigned.version, PREFIXES) == list(assigned.probes.adapter)
        await client.unload(assigned.version)
        await client.unload(assigned.version)  # not listed is fine already
        assert assigned.version not in await client.models()


async def test_metrics_name_the_process_and_what_runs(engine: FakeEngine):
    async with EngineClient(engine.url) as client:
        first = await client.metrics()
        assert (first.running, first.uses("r@000000000000")) == (0, False)
        engine.misbehave.in_use = {"a@000000000001", "b@000000000002"}
        busy = await client.metrics()
        assert busy.uses("a@000000000001") and busy.uses("b@000000000002") and not busy.uses("r@000000000000")
        engine.restart()
        assert (await client.metrics()).boot != first.boot


async def test_refusals_carry_the_engines_words(engine: FakeEngine, make):
    assigned = make(1)
    engine.misbehave.refuse[assigned.version] = (500, "LoRA rank 64 is greater than max_lora_rank 16.")
    async with EngineClient(engine.url) as client:
        with pytest.raises(EngineRefused, match="rank 64 is greater") as caught:
            await client.load(assigned.version, assigned.path)
        assert caught.value.status == 500
        with pytest.raises(EngineRefused, match="does not exist"):
            await client.probe("nobody", PREFIXES)


async def test_nan_is_told_apart_from_a_refusal(engine: FakeEngine, make):
    assigned = make(1)
    engine.misbehave.nan.add(assigned.version)
    async with EngineClient(engine.url) as client:
        await client.load(assigned.version, assigned.path)
        for answer in await client.probe(assigned.version, PREFIXES):
            assert all(math.isnan(value) for value in answer.values()) and answer


async def test_the_api_key_is_sent(engine: FakeEngine):
    engine.api_key = "secret"
    async with EngineClient(engine.url) as client:
        with pytest.raises(EngineRefused, match="Unauthorized"):
            await client.models()
    async with EngineClient(engine.url, "secret") as client:
        assert "base" in await client.models()


async def test_an_engine_that_went_and_came_back(engine: FakeEngine):
    async with EngineClient(engine.url) as client:
        await client.models()
        engine.stop()
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await client.models()
        engine.start()
        assert "base" in await client.models()


async def test_over_tcp(tmp_path):
    with fake_engine() as engine:
        assert engine.url.startswith("http://127.0.0.1:")
        async with EngineClient(engine.url) as client:
            assert "base" in await client.models()


def answering(content: bytes, status: int = 200) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(status, content=content))


ERRORS = [
    (b'{"error": {"message": "nested", "type": "x", "param": null, "code": 400}}', "nested"),
    (b'{"object": "error", "message": "flat", "type": "x", "code": 400}', "flat"),
    (b'{"error": "Unauthorized"}', "Unauthorized"),
    (b'{"detail": "Not Found"}', "Not Found"),
    (b'{"detail": [{"loc": ["body"], "msg": "field required"}]}', "field required"),
    (b"<html>\nBad Gateway</html>", "<html> Bad Gateway</html>"),
    (b"", "Bad Request"),
    (b"[]", r"\[\]"),
    (b'{"error": null}', "None"),
]


@pytest.mark.parametrize(("content", "message"), ERRORS)
async def test_every_shape_of_error_becomes_one_line(content, message):
    async with EngineClient("http://engine", transport=answering(content, 400)) as client:
        for call in (client.models(), client.load("a", "/a"), client.metrics(), client.probe("a", PREFIXES)):
            with pytest.raises(EngineRefused, match=message) as caught:
                await call
            assert "\n" not in str(caught.value)


async def test_a_long_error_is_shortened():
    async with EngineClient("http://engine", transport=answering(b"x" * 10_000, 500)) as client:
        with pytest.raises(EngineRefused) as caught:
            await client.models()
        assert len(str(caught.value)) == 500


NONSENSE = [b"", b"hello", b"[]", b"null", b'{"data": 3}', b'{"data": [{}]}', b'{"data": [3]}']


@pytest.mark.parametrize("content", NONSENSE)
async def test_answers_that_are_no_vllms(content):
    async with EngineClient("http://engine", transport=answering(content)) as client:
        with pytest.raises(EngineUnavailable):
            await client.models()
        with pytest.raises(EngineError):
            await client.probe("a", PREFIXES)


async def test_completions_without_logprobs_fail_the_probe():
    choice = {"index": 0, "text": "x", "logprobs": None}
    async with EngineClient("http://e", transport=answering(json.dumps({"choices": [choice]}).encode())) as client:
        with pytest.raises(ProbeFailed, match="without logprobs"):
            await client.probe("a", PREFIXES)
    listed = {"index": 0, "logprobs": {"top_logprobs": [{"token_id:3": -0.5}]}}
    async with EngineClient("http://e", transport=answering(json.dumps({"choices": [listed]}).encode())) as client:
        with pytest.raises(ProbeFailed, match="1 of 3 probes"):
            await client.probe("a", PREFIXES)


async def test_bare_nan_in_json_is_read_as_nan():
    content = b'{"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:3": NaN, "token_id:4": null}]}}]}'
    async with EngineClient("http://e", transport=answering(content)) as client:
        (answer,) = await client.probe("a", [[1]])
        assert all(math.isnan(value) for value in answer.values())


FAILURES = [
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("slow"),
    httpx.ReadTimeout("slow"),
    httpx.ReadError("broken"),
    httpx.RemoteProtocolError("gone"),
    httpx.WriteError("gone"),
    httpx.PoolTimeout("full"),
    httpx.UnsupportedProtocol("ftp"),
    httpx.DecodingError("gzip"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda f: type(f).__name__)
async def test_every_transport_failure_is_translated(failure):
    def fail(request: httpx.Request) -> httpx.Response:
        raise failure

    async with EngineClient("http://engine", transport=httpx.MockTransport(fail)) as client:
        for call in (client.models(), client.unload("a"), client.health()):
            with pytest.raises(EngineUnavailable) as caught:
                await call
            assert timed_out(caught.value) == isinstance(failure, httpx.TimeoutException)
        with pytest.raises(ProbeFailed if isinstance(failure, httpx.TimeoutException) else EngineUnavailable):
            await client.probe("a", PREFIXES)


async def test_a_bad_url_is_one_line_too():
    async with EngineClient("http://[broken") as client:
        with pytest.raises(EngineUnavailable):
            await client.models()


async def test_reads_are_repeated_once_when_an_idle_connection_closes():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if len(asked) == 1:
            raise httpx.RemoteProtocolError("server disconnected")
        return httpx.Response(200, json={"data": []})

    async with EngineClient("http://engine", transport=httpx.MockTransport(answer)) as client:
        assert await client.models() == {}
        assert asked == ["GET", "GET"]
        asked.clear()
        with pytest.raises(EngineUnavailable):  # a load may have happened: the caller looks again
            await client.load("a", "/a")
        assert asked == ["POST"]
