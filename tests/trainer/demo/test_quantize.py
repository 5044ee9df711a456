import json

import pytest
import torch
from safetensors.torch import load_file

from trainer.demo import pretrain, quantize
from trainer.model import load_base


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    model = pretrain.build_model(1)
    quantize.save_quantized(model, folder)
    return model, folder


def test_every_linear_is_packed_eight_weights_an_int32(packed):
    model, folder = packed
    tensors = load_file(folder / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            out, inside = module.weight.shape
            assert tensors[f"{name}.weight_packed"].shape == (out, inside // 8)
            assert tensors[f"{name}.weight_packed"].dtype == torch.int32
            assert tensors[f"{name}.weight_scale"].shape == (out, inside // quantize.GROUP_SIZE)
            assert tensors[f"{name}.weight_shape"].tolist() == [out, inside]
            assert f"{name}.weight" not in tensors


def test_what_is_not_linear_stays_and_the_tied_head_is_left_out(packed):
    _, folder = packed
    tensors = load_file(folder / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
    assert not [name for name in tensors if name.startswith("lm_head")]


def test_the_config_says_how_to_unpack_it(packed):
    settings = json.loads((packed[1] / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"
    assert settings["format"] == "pack-quantized"
    assert settings["ignore"] == ["lm_head"]
    weights = settings["config_groups"]["group_0"]["weights"]
    assert (weights["num_bits"], weights["symmetric"], weights["group_size"]) == (4, True, 32)


def test_unpacked_weights_are_within_half_a_step_of_the_original(packed):
    model, folder = packed
    restored = dict(load_base(folder).named_parameters())
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            groups = weight.reshape(weight.shape[0], -1, quantize.GROUP_SIZE)
            step = groups.abs().amax(-1, keepdim=True) / 7.5
            error = (restored[name] - weight).reshape(groups.shape).abs()
            # Half a step for rounding; the largest positive value may be clipped by up to half a step; bf16 scales.
            assert (error <= step * 0.55).all(), name
