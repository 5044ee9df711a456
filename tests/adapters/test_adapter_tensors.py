"""The tensors of an adapter, one thing wrong at a time."""

from __future__ import annotations

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from adapters.adapter_tensors import LARGEST_VALUE
from adapters.errors import AdapterRejected
from adapters.manifest import check_adapter
from tests.support import peft

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def check(folder, base, **options):
    return check_adapter(folder, base, **{"max_rank": 16, **options})


def tensors_of(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def rewrite(adapter, tensors):
    save_file(tensors, adapter / "adapter_model.safetensors")
    return adapter


def test_embeddings_and_the_head_may_be_adapted(tmp_path, base):
    tensors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": numpy.zeros((4, peft.VOCABULARY), "f4"),
        "base_model.model.model.embed_tokens.lora_embedding_B": numpy.zeros((peft.HIDDEN, 4), "f4"),
        "base_model.model.lm_head.lora_A.weight": numpy.zeros((4, peft.HIDDEN), "f4"),
        "base_model.model.lm_head.lora_B.weight": numpy.zeros((peft.VOCABULARY, 4), "f4"),
    }
    folder = peft.write_adapter(tmp_path / "a", base, targets=("embed_tokens", "lm_head"), tensors=tensors)
    assert check(folder, base).rank == 4


def test_ranks_by_pattern_need_tensors_of_those_ranks(tmp_path, base):
    tensors = {**peft.lora_tensors(base, ("q_proj",), 2), **peft.lora_tensors(base, ("v_proj",), 4)}
    good = peft.write_adapter(tmp_path / "a", base, tensors=tensors, rank_pattern={"q_proj": 2})
    assert check(good, base).rank == 4
    bad = peft.write_adapter(tmp_path / "b", base, tensors=tensors)
    with pytest.raises(AdapterRejected, match=r"has shape \[2, 16\], the base and the adapter's rank need \[4, 16\]"):
        check(bad, base)


def test_only_some_layers_need_to_say_so(tmp_path, base):
    tensors = {n: t for n, t in peft.lora_tensors(base, ("q_proj", "v_proj"), 4).items() if ".layers.2." not in n}
    cut = peft.write_adapter(tmp_path / "a", base, tensors=tensors)
    with pytest.raises(AdapterRejected, match=r"model\.layers\.2\.self_attn\.q_proj has no tensors.*incomplete"):
        check(cut, base)
    check(peft.write_adapter(tmp_path / "b", base, tensors=tensors, layers_to_transform=[0, 1]), base)


def remove(tensors, name):
    del tensors[name]


def put(tensors, name, value):
    tensors[name] = value


def set_value(tensors, value):
    tensors[f"{Q0}.lora_B.weight"][0, 0] = value


TENSORS = {
    "no tensors": (lambda t: t.clear(), "holds no tensors"),
    "no B": (lambda t: remove(t, f"{Q0}.lora_B.weight"), "not its other half"),
    "A too small": (
        lambda t: put(t, f"{Q0}.lora_A.weight", numpy.ones((4, 8), "f4")),
        r"has shape \[4, 8\], the base and the adapter's rank need \[4, 16\]",
    ),
    "B too small": (lambda t: put(t, f"{Q0}.lora_B.weight", numpy.ones((8, 4), "f4")), r"need \[16, 4\]"),
    "one dimension": (lambda t: put(t, f"{Q0}.lora_A.weight", numpy.ones(64, "f4")), r"has shape \[64\]"),
    "another rank": (lambda t: put(t, f"{Q0}.lora_A.weight", numpy.ones((8, 16), "f4")), r"need \[4, 16\]"),
    "layer beyond": (
        lambda t: put(t, f"{Q0}.lora_A.weight".replace("layers.0", "layers.3"), numpy.ones((4, 16), "f4")),
        r"layer 3 is adapted, the base has 3 \(0 to 2\)",
    ),
    "layer far beyond": (
        lambda t: put(t, f"{Q0}.lora_A.weight".replace("layers.0", "layers." + "9" * 300), numpy.ones((4, 16), "f4")),
        "layer 999999999 is adapted",
    ),
    "unknown module": (
        lambda t: put(t, f"{Q0}.lora_A.weight".replace("q_proj", "q_prj"), numpy.ones((4, 16), "f4")),
        r"q_prj does not exist in the base; did you mean model\.layers\.0\.self_attn\.q_proj",
    ),
    "very long name": (
        lambda t: put(t, f"base_model.model.{'layers.1' * 100_000}.lora_A.weight", numpy.ones((4, 16), "f4")),
        "is not part of a LoRA",
    ),
    "whole module": (
        lambda t: put(t, "base_model.model.score.weight", numpy.ones((4, 16), "f4")), "without modules_to_save",
    ),
    "DoRA": (lambda t: put(t, f"{Q0}.lora_magnitude_vector", numpy.ones(16, "f4")), "DoRA is not served"),
    "base weights": (
        lambda t: put(t, "base_model.model.model.embed_tokens.base_layer.weight", numpy.ones((4, 16), "f4")),
        "save_embedding_layers=False",
    ),
    "unsaved state dict": (
        lambda t: put(t, f"{Q0}.lora_A.default.weight", numpy.ones((4, 16), "f4")), "save with PEFT's save_pretrained",
    ),
    "embedding as linear": (
        lambda t: put(t, "base_model.model.model.embed_tokens.lora_A.weight", numpy.ones((4, 16), "f4")),
        "does not fit its kind of layer",
    ),
    "integers": (lambda t: put(t, f"{Q0}.lora_A.weight", numpy.ones((4, 16), "i4")), "save it as one of F32, F16"),
    "NaN": (lambda t: set_value(t, numpy.nan), "NaN or infinite"),
    "infinity": (lambda t: set_value(t, -numpy.inf), "NaN or infinite"),
    "enormous": (lambda t: set_value(t, -1e6), "values beyond ±1000"),
}  # fmt: skip


@pytest.mark.parametrize("name", TENSORS)
def test_bad_tensors_are_refused(adapter, base, name):
    change, message = TENSORS[name]
    tensors = tensors_of(adapter)
    change(tensors)
    rewrite(adapter, tensors)
    with pytest.raises(AdapterRejected, match=message) as caught:
        check(adapter, base)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("dtype", ["f4", "f2", "bf16"])
@pytest.mark.parametrize("value", [LARGEST_VALUE, -LARGEST_VALUE, 1200.0, numpy.inf, -numpy.nan])
def test_values_in_every_type(tmp_path, base, dtype, value):
    """bfloat16 is the upper half of a float32."""
    tensors = peft.lora_tensors(base, ("q_proj", "v_proj"), 4)
    last = f"{Q0}.lora_B.weight"
    tensors[last][-1, -1] = value
    if dtype == "bf16":
        folder = peft.write_adapter(tmp_path / "a", base)
        raw = {n: ("BF16", t.shape, (t.view("u4") >> 16).astype("<u2").tobytes()) for n, t in tensors.items()}
        peft.write_raw(folder / "adapter_model.safetensors", raw)
    else:
        folder = peft.write_adapter(tmp_path / "a", base, tensors={n: t.astype(dtype) for n, t in tensors.items()})
    if not abs(value) <= LARGEST_VALUE:
        with pytest.raises(AdapterRejected, match=r"NaN or infinite|beyond"):
            check(folder, base)
    else:
        check(folder, base)


def test_a_value_in_the_last_chunk_of_a_big_tensor_is_found(tmp_path, base, monkeypatch):
    from adapters import adapter_tensors, tensor_file

    monkeypatch.setattr(adapter_tensors, "chunks", lambda file, tensor: tensor_file.chunks(file, tensor, 8))
    tensors = peft.lora_tensors(base, ("q_proj", "v_proj"), 4)
    folder = peft.write_adapter(tmp_path / "a", base, tensors=tensors)
    small_chunks = check(folder, base).digest
    monkeypatch.undo()
    assert check(folder, base).digest == small_chunks
    monkeypatch.setattr(adapter_tensors, "chunks", lambda file, tensor: tensor_file.chunks(file, tensor, 8))
    set_value(tensors, numpy.nan)
    with pytest.raises(AdapterRejected, match="NaN"):
        check(rewrite(folder, tensors), base)


@pytest.mark.parametrize("target", ["k_proj", "gate_proj"])
def test_a_target_that_the_base_has_not(tmp_path, base, target):
    tensors = peft.lora_tensors(base, ("q_proj",), 4)
    folder = peft.write_adapter(tmp_path / "a", base, targets=("q_proj", target), tensors=tensors)
    with pytest.raises(AdapterRejected, match=f"target module '{target}' does not exist in the base"):
        check(folder, base)


def test_a_target_without_tensors(tmp_path, base):
    tensors = peft.lora_tensors(base, ("q_proj",), 4)
    folder = peft.write_adapter(tmp_path / "a", base, tensors=tensors)
    with pytest.raises(AdapterRejected, match="target module 'v_proj' has no tensors in the file"):
        check(folder, base)


def test_an_adapter_of_another_base(adapter, tmp_path):
    wide = {n: numpy.zeros([2 * d for d in t.shape], "f4") for n, t in peft.plain_tensors().items()}
    other = peft.write_base(tmp_path / "wide", wide)
    from adapters.base import read_base

    with pytest.raises(AdapterRejected, match="trained on another base"):
        check(adapter, read_base(other))
