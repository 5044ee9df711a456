"""What the checks accept, a real vLLM loads from the store and serves as PEFT computes it."""

from __future__ import annotations

import numpy
import pytest

from adapters.manifest import check_adapter
from gateway.engines.client import EngineClient
from tests.support import peft

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PREFIXES = [[1, 20, 30, 40], [1, 50, 60], [1, 7]]
COMPARED = 4      # the likeliest tokens
TOLERANCE = 0.15  # nats; the engine computes in bfloat16
SOME = ("q_proj", "v_proj", "down_proj")


def embedding_tensors(base):
    random = numpy.random.default_rng(5)
    vocabulary, hidden = base.modules["model.embed_tokens"]
    prefix = "base_model.model.model.embed_tokens.lora_embedding_"
    return {
        f"{prefix}A": random.normal(scale=0.3, size=(4, vocabulary)).astype("f4"),
        f"{prefix}B": random.normal(scale=0.3, size=(hidden, 4)).astype("f4"),
    }


def ranked_tensors(base):
    return {**peft.lora_tensors(base, ("q_proj",), 2), **peft.lora_tensors(base, ("v_proj",), 4)}


def two_layers(base):
    tensors = peft.lora_tensors(base, SOME, 4)
    return {name: value for name, value in tensors.items() if ".layers.0." in name or ".layers.1." in name}


VARIATIONS = {
    "plain": {},
    "every linear layer": {"targets": (*SOME, "k_proj", "o_proj", "gate_proj", "up_proj")},
    "rank-stabilised": {"use_rslora": True},
    "ranks by pattern": {
        "targets": ("q_proj", "v_proj"), "tensors": ranked_tensors,
        "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*q_proj": 9},
    },
    "two layers": {"tensors": two_layers, "layers_to_transform": [0, 1]},
    "head": {"targets": ("lm_head",)},
    "embedding": {"targets": ("embed_tokens",), "tensors": embedding_tensors},
    "targets by pattern": {"targets": ("q_proj", "v_proj"), "target_modules": ".*[qv]_proj"},
}  # fmt: skip


@pytest.fixture(scope="module")
def reference():
    """The next-token logprobs after PREFIXES that PEFT computes on the base, dequantised."""
    import torch
    from peft import PeftModel

    from trainer.model import load_base

    def logprobs(folder):
        model = PeftModel.from_pretrained(load_base("demo"), str(folder)).eval()
        with torch.no_grad():
            logits = [model(torch.tensor([prefix])).logits[0, -1].float() for prefix in PREFIXES]
        return [torch.log_softmax(row, -1).tolist() for row in logits]

    return logprobs


@pytest.mark.parametrize("name", VARIATIONS)
async def test_every_accepted_variation_is_served_as_trained(name, real_engine, reference, demo_base, artifacts, tmp_path):
    options = {"targets": SOME, **VARIATIONS[name]}
    if make := options.get("tensors"):
        options["tensors"] = make(demo_base)
    checked = check_adapter(peft.write_adapter(tmp_path / "a", demo_base, **options), demo_base, max_rank=16)
    artifacts.publish(checked.digest, checked.files)
    folder = artifacts.local_path(checked.digest)
    version = f"variation@{checked.digest[:12]}"
    expected = reference(folder)
    async with EngineClient(real_engine.url) as client:
        await client.load(version, folder)
        try:
            found = await client.probe(version, PREFIXES)
        finally:
            await client.unload(version)
    for theirs, ours in zip(expected, found, strict=True):
        likely = sorted(range(len(theirs)), key=theirs.__getitem__)[-COMPARED:]
        assert max(abs(theirs[token] - ours[token]) for token in likely) < TOLERANCE
