from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapters.errors import EngineUnavailable
from gateway.engines.client import EngineClient
from gateway.engines.probe import bring_up
from tests.support.fake_engine import FakeEngine


@pytest.fixture
async def client(engine: FakeEngine):
    async with EngineClient(engine.url) as opened:
        yield opened


async def test_a_true_adapter_is_ready(engine, client, make):
    result = await bring_up(client, make(1), "base", listed=False)
    assert result.ready and result.error == ""
    assert result.probe["verdict"] == "match" and result.probe["max_difference"] < 0.01
    json.dumps(result.probe, allow_nan=False)
    assert engine.calls == [("load", make(1).version)]


async def test_one_that_is_listed_is_only_probed(engine, client, make):
    assigned = make(1)
    await client.load(assigned.version, assigned.path)
    assert (await bring_up(client, assigned, "base", listed=True)).ready
    assert engine.loads(assigned.version) == 1


async def test_a_silently_ignored_adapter_is_refused_with_numbers(engine, client, make):
    assigned = make(1)
    engine.misbehave.ignore.add(assigned.version)
    result = await bring_up(client, assigned, "base", listed=False)
    assert not result.ready and result.probe["verdict"] == "ignored"
    assert "answers like the base" in result.error and "nats" in result.error
    assert assigned.version not in engine.adapters
    json.dumps(result.probe, allow_nan=False)


async def test_other_weights_are_refused_with_numbers(engine, client, make):
    wrong = replace(make(1), path=make(2).path)
    result = await bring_up(client, wrong, "base", listed=False)
    assert not result.ready and result.probe["verdict"] == "mismatch"
    assert "does not reproduce the trainer's logprobs" in result.error
    assert engine.adapters == {}


async def test_an_adapter_that_is_not_listed_after_200(engine, client, make):
    engine.misbehave.unlisted.add(make(1).version)
    result = await bring_up(client, make(1), "base", listed=False)
    assert not result.ready and "does not list it" in result.error
    assert engine.adapters == {}


async def test_an_adapter_that_is_listed_from_elsewhere(engine, client, make):
    engine.misbehave.elsewhere[make(1).version] = "/old/place"
    result = await bring_up(client, make(1), "base", listed=False)
    assert not result.ready and "/old/place" in result.error


async def test_the_engines_refusal_is_the_reason(engine, client, make):
    engine.misbehave.refuse[make(1).version] = (500, "LoRA rank 64 is greater than max_lora_rank 16.")
    result = await bring_up(client, make(1), "base", listed=False)
    assert result.error == "the engine refused it (500): LoRA rank 64 is greater than max_lora_rank 16."


async def test_an_engine_without_run_time_loading_is_told_apart(engine, client, make):
    engine.misbehave.refuse[make(1).version] = (404, "Not Found")
    result = await bring_up(client, make(1), "base", listed=False)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in result.error


async def test_nan_names_its_author_and_nothing_more_is_done(engine, client, make):
    assigned = make(1)
    engine.misbehave.nan.add(assigned.version)
    result = await bring_up(client, assigned, "base", listed=False)
    assert result.poisoned and result.probe == {"verdict": "non_finite", "blame": assigned.version}
    assert engine.calls == [("load", assigned.version)]  # not even unloaded: the engine restarts


async def test_an_engine_that_was_poisoned_before_is_not_blamed_on_the_version(engine, client, make):
    engine.poisoned = True
    result = await bring_up(client, make(1), "base", listed=False)
    assert result.poisoned and result.probe["blame"] == "engine"


async def test_without_probes_it_must_at_least_differ_from_the_base(engine, client, make):
    unrecorded = make(1, probes=False)
    result = await bring_up(client, unrecorded, "base", listed=False)
    assert result.ready and result.probe == {"verdict": "none"}
    engine.misbehave.ignore.add(unrecorded.version)
    ignored = await bring_up(client, unrecorded, "base", listed=True)
    assert not ignored.ready and ignored.probe["verdict"] == "ignored"
    silent = replace(unrecorded, changes_nothing=True)
    assert (await bring_up(client, silent, "base", listed=False)).ready


async def test_a_base_that_answers_with_an_adapters_weights_is_not_the_adapters_fault(engine, client, make, caplog):
    engine.misbehave.mixes = make(1).version
    result = await bring_up(client, make(1), "base", listed=False)
    assert result.ready and result.probe["verdict"] == "match"
    assert "answers for the base with an adapter's weights" in caplog.text


async def test_answers_without_logprobs_fail_the_version_not_the_engine(engine, client, make):
    engine.misbehave.garbage = True
    result = await bring_up(client, make(1), "base", listed=False)
    assert not result.ready and "without logprobs" in result.error


async def test_an_engine_that_dies_says_nothing_about_the_version(engine, client, make):
    engine.stop()
    with pytest.raises(EngineUnavailable):
        await bring_up(client, make(1), "base", listed=False)
