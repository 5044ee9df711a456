"""Checks the tensors of adapter_model.safetensors against the base, and hashes them, without loading the file."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.adapter_config import HEAD, AdapterConfig
from adapters.base import BaseModelInfo
from adapters.errors import AdapterRejected
from adapters.tensor_file import TensorInfo, chunks
from adapters.types import Kind

if TYPE_CHECKING:
    from hashlib import _Hash

_PREFIX = "base_model.model."
_NAME = re.compile(re.escape(_PREFIX) + r"(?P<module>.+)\.(?P<part>lora_[AB]\.weight|lora_embedding_[AB])")
_LAYER = re.compile(r"(?P<before>.*\blayers\.)(?P<index>\d+)\.(?P<rest>.+)")
_LONGEST_NAME = 500  # characters; comparing longer ones for a hint would take long
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings")
LARGEST_VALUE = 1000.0  # trained LoRA weights stay below about 10; larger ones overflow in an engine's 16 bits
# dtype → (bytes, mask that drops the sign, bits of infinity, bits of LARGEST_VALUE). Magnitudes of IEEE floats order
# like the integers of their bits, so one integer maximum finds NaN, infinity and outliers, in bfloat16 too.
_FLOATS = {
    "F32": (4, 0x7FFFFFFF, 0x7F800000, 0x447A0000),
    "F16": (2, 0x7FFF, 0x7C00, 0x63D0),
    "BF16": (2, 0x7FFF, 0x7F80, 0x447A),
}


def check_tensors(
    tensors: dict[str, TensorInfo], config: AdapterConfig, base: BaseModelInfo, kind: Kind = Kind.ADAPTER
) -> int:
    """Names, pairs, shapes and types. Returns the largest rank in use. Raises AdapterRejected."""
    if kind is Kind.REWARD_MODEL:
        tensors = _without_head(tensors, base)
    if not tensors:
        raise AdapterRejected("adapter_model.safetensors holds no tensors: save the adapter after training")
    parts: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name) if len(name) <= _LONGEST_NAME else None
        if not match:
            raise AdapterRejected(f"tensor {name[:200]!r} is not part of a LoRA that is served here: {_advice(name)}")
        module, part = match["module"], match["part"]
        _check_module(module, part, base)
        _check_shape(name, tensor, _expected(module, part, config.rank_of(module), base.modules[module]))
        if tensor.dtype not in _FLOATS:
            raise AdapterRejected(f"tensor {name} is {tensor.dtype}: save it as one of {', '.join(_FLOATS)}")
        parts.setdefault(module, set()).add(part)
    for module, found in parts.items():
        if len(found) != 2:
            raise AdapterRejected(f"{module} has {found.pop()} but not its other half: the file is incomplete")
    if config.targets is not None:
        _check_targets(set(parts), config, base)
    return max(config.rank_of(module) for module in parts)


def _without_head(tensors: dict[str, TensorInfo], base: BaseModelInfo) -> dict[str, TensorInfo]:
    """The LoRA's tensors of a reward model, whose score head must be there and fit the base."""
    name = f"{_PREFIX}{HEAD}.weight"
    head = tensors.get(name)
    if head is None:
        raise AdapterRejected(f"a reward model needs the tensor {name}: make one with `understudy train reward-model`")
    widths = (shape[1] for module, shape in base.modules.items() if module.endswith(_EMBEDDINGS))
    width = next(widths, head.shape[-1])
    if head.shape != (1, width) or head.dtype not in _FLOATS:
        raise AdapterRejected(f"tensor {name} is {head.dtype} of shape {list(head.shape)}, the base needs [1, {width}]")
    return {other: tensor for other, tensor in tensors.items() if other != name}


def hash_tensors(path: Path, tensors: dict[str, TensorInfo]) -> _Hash:
    """SHA-256 over name, type, shape and bytes of every tensor, by name. Raises AdapterRejected for a bad value."""
    digest = hashlib.sha256(b"understudy adapter 1\n")
    with path.open("rb") as file:
        for name in sorted(tensors):
            tensor = tensors[name]
            digest.update(json.dumps([name, tensor.dtype, tensor.shape]).encode() + b"\n")
            for chunk in chunks(file, tensor):
                _check_values(name, tensor.dtype, chunk)
                digest.update(chunk)
    return digest


def _check_values(name: str, dtype: str, chunk: bytes) -> None:
    import numpy

    width, magnitude, infinity, largest = _FLOATS[dtype]
    bits = int((numpy.frombuffer(chunk, dtype=f"<u{width}") & magnitude).max())
    if bits >= infinity:
        raise AdapterRejected(f"tensor {name} has NaN or infinite values: training diverged, push an earlier one")
    if bits > largest:
        raise AdapterRejected(f"tensor {name} has values beyond ±{LARGEST_VALUE:.0f}: training diverged")


def _check_module(module: str, part: str, base: BaseModelInfo) -> None:
    layer = _LAYER.fullmatch(module)
    if layer and int(layer["index"][:9]) >= base.num_layers:
        raise AdapterRejected(
            f"layer {layer['index'][:9]} is adapted, the base has {base.num_layers} (0 to {base.num_layers - 1}): "
            f"the adapter was trained on another base"
        )
    if module not in base.modules:
        near = difflib.get_close_matches(module, base.modules, n=1)
        hint = f"; did you mean {near[0]}?" if near else ": the adapter was trained on another base"
        raise AdapterRejected(f"module {module[:200]} does not exist in the base{hint}")
    if module.endswith(_EMBEDDINGS) != part.startswith("lora_embedding"):
        raise AdapterRejected(f"module {module} has {part}, which does not fit its kind of layer")


def _expected(module: str, part: str, rank: int, shape: tuple[int, int]) -> tuple[int, int]:
    """A maps the input to `rank` numbers, B maps those to the output; embeddings look A up by token instead."""
    out, inside = (shape[1], shape[0]) if part.startswith("lora_embedding") else shape
    return (rank, inside) if "_A" in part else (out, rank)


def _check_shape(name: str, tensor: TensorInfo, expected: tuple[int, int]) -> None:
    if tensor.shape != expected:
        raise AdapterRejected(
            f"tensor {name} has shape {list(tensor.shape)}, the base and the adapter's rank need {list(expected)}: "
            "the adapter was trained on another base, or its adapter_config.json is another's"
        )


def _check_targets(adapted: set[str], config: AdapterConfig, base: BaseModelInfo) -> None:
    """Every target exists and is adapted, and in every layer: a file cut down to some layers would load silently."""
    for target in config.targets or ():
        mine = {module for module in adapted if _ends_with(module, target)}
        if not mine:
            known = any(_ends_with(module, target) for module in base.modules)
            state = "has no tensors in the file" if known else "does not exist in the base"
            raise AdapterRejected(f"target module {target!r} {state}: remove it from target_modules, or save again")
        if config.partial:
            continue
        kinds = {_kind(module) for module in mine}
        wanted = {module for module in base.modules if _kind(module) in kinds and _within(module, base)}
        if missing := sorted(wanted - mine):
            raise AdapterRejected(f"{missing[0]} has no tensors, other layers' {target} has: the file is incomplete")


def _ends_with(module: str, target: str) -> bool:
    return module == target or module.endswith("." + target)


def _kind(module: str) -> tuple[str, str]:
    """The same for the same module of all layers."""
    layer = _LAYER.fullmatch(module)
    return (layer["before"], layer["rest"]) if layer else ("", module)


def _within(module: str, base: BaseModelInfo) -> bool:
    """False for the extra layers that some checkpoints carry behind the model's own (multi-token prediction)."""
    layer = _LAYER.fullmatch(module)
    return layer is None or int(layer["index"]) < base.num_layers


def _advice(name: str) -> str:
    if ".base_layer." in name:
        return "save with save_pretrained(…, save_embedding_layers=False)"
    if "lora_magnitude_vector" in name:
        return "DoRA is not served, train with use_dora=False"
    if "lora_" in name:
        return "save with PEFT's save_pretrained, which names tensors base_model.model.<module>.lora_A.weight"
    return "train only lora_A and lora_B, without modules_to_save"
