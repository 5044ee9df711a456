"""Packs a trained Llama as W4A16 compressed-tensors: 4-bit weights, 16-bit activations.

Round to nearest, symmetric, one scale per 32 inputs: vLLM's CPU and GPU kernels take it,
and at this size nothing cleverer is needed. `compressed_tensors` does the packing, so the
demo needs no second environment for a quantization toolkit.
"""

from pathlib import Path
from typing import Any

GROUP_SIZE = 32
IGNORED = ("lm_head",)


def quantization_config() -> Any:
    """The `quantization_config` of the checkpoint, as compressed-tensors' own type."""
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
    )

    weights = QuantizationArgs(num_bits=4, type="int", symmetric=True, strategy="group", group_size=GROUP_SIZE)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, format="pack-quantized")
    return QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=list(IGNORED),
        format="pack-quantized",
        quantization_status=QuantizationStatus.COMPRESSED,
    )


def pack_linear(weight: Any, scheme: Any) -> dict[str, Any]:
    """Packs one `[out, in]` weight; returns `weight_packed`, `weight_scale` and `weight_shape`."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    grouped = weight.reshape(weight.shape[0], -1, GROUP_SIZE)
    scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), scheme.weights)
    # The scale that is stored is the one that rounds: bf16 before, not after, quantizing.
    scale = scale.to(torch.bfloat16)
    compressor: Any = BaseCompressor.get_value_from_registry("pack-quantized")
    packed = compressor.compress({"weight": weight, "weight_scale": scale.to(weight.dtype)}, scheme)
    packed["weight_scale"] = scale
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def packed_state(model: Any) -> dict[str, Any]:
    """The checkpoint's tensors by name: Linear layers packed, all else in bf16.

    A tied `lm_head` is left out, as transformers and vLLM expect.
    """
    import torch

    scheme = quantization_config().config_groups["group_0"]
    linears = {
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name not in IGNORED
    }
    state: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        owner = name.removesuffix(".weight")
        if owner in linears:
            for suffix, part in pack_linear(tensor.float(), scheme).items():
                state[f"{owner}.{suffix}"] = part
        elif owner != "lm_head" or not model.config.tie_word_embeddings:
            state[name] = tensor.to(torch.bfloat16).contiguous()
    return state


def save_quantized(model: Any, out: Path) -> None:
    """Writes config.json and model.safetensors of the packed model into the folder `out`."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    save_file(packed_state(model), out / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = "bfloat16"
    model.config.architectures = [type(model).__name__]
    settings = quantization_config().model_dump(mode="json")
    model.config.quantization_config = {**settings, "quant_method": "compressed-tensors"}
    model.config.save_pretrained(out)
