"""A real vLLM's behaviour that this package relies on, or protects from."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from adapters.errors import EngineRefused
from adapters.probes import Probes, Verdict
from gateway.engines.client import EngineClient
from gateway.engines.probe import bring_up
from gateway.engines.reconcile import Assigned
from tests.support.engine import REAL, RealEngine, long_answer

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]


async def test_an_adapter_without_effect_is_told_from_one_that_is_ignored(real_engine: RealEngine, marker_adapters, tmp_path: Path):
    """All-zero B with another adapter's probes: the engine answers like the base."""
    silent = shutil.copytree(marker_adapters["A"], tmp_path / "silent")
    tensors = load_file(silent / "adapter_model.safetensors")
    zeroed = {name: value * 0 if "lora_B" in name else value for name, value in tensors.items()}
    save_file(zeroed, silent / "adapter_model.safetensors")
    async with EngineClient(real_engine.url) as client:
        probes = Probes.read(marker_adapters["A"])
        result = await bring_up(client, Assigned("r@00000000000a", str(silent), probes), "base", False)
        assert not result.ready and result.probe["verdict"] == Verdict.IGNORED
        weak = await bring_up(client, Assigned("r@00000000000b", str(silent), None), "base", False)
        assert not weak.ready and weak.probe["verdict"] == Verdict.IGNORED
        true = await bring_up(client, Assigned("r@00000000000c", str(marker_adapters["A"]), None), "base", False)
        assert true.ready and true.probe == {"verdict": "none"}
        await client.unload("r@00000000000c")
        with pytest.raises(EngineRefused, match="does not exist"):  # what failed was taken off again
            await client.probe("r@00000000000a", [[1]])


async def test_adapters_do_not_get_into_the_bases_answers(real_engine: RealEngine, marker_adapters):
    """vLLM's CPU build answers base requests in mixed batches with the last slot's weights, once it is filled."""
    probes = Probes.read(marker_adapters["A"])
    async with EngineClient(real_engine.url) as client:
        alone = await client.probe("base", probes.prefixes)
        for number in range(REAL.max_loras + 1):
            name = f"slot-{number}"
            await client.load(name, str(marker_adapters["A" if number % 2 else "B"]))
            if number < REAL.max_loras - 1:  # there is an empty slot yet: no harm is done
                await client.probe(name, probes.prefixes[:1])
                continue
            beside = [asyncio.create_task(long_answer(client, name)) for _ in range(2)]
            while not (await client.metrics()).uses(name):  # on a fast machine they may be over before we look
                if all(task.done() for task in beside):
                    beside = [asyncio.create_task(long_answer(client, name)) for _ in range(2)]
                await asyncio.sleep(0.01)
            for _ in range(5):
                mixed = await client.probe("base", probes.prefixes)
                assert all(abs(logprob - mixed[i].get(token, -99.0)) < 0.1 for i, token, logprob in likely(alone))
            await asyncio.gather(*beside)
        for number in range(REAL.max_loras + 1):
            await client.unload(f"slot-{number}")


def likely(answers):
    """(prefix, token, logprob) of what is not negligible."""
    return [(i, token, p) for i, answer in enumerate(answers) for token, p in answer.items() if p > -3.0]
