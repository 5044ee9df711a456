"""How much GPU memory and disk a run will need, before it starts. Estimates from shapes; they err on the large side.

Weights and optimizer: every frozen weight once; every LoRA weight in float32 with its gradient and two moments of Adam
(16 bytes). Activations: with gradient checkpointing each layer keeps its input (2 bytes a number), and one layer at a
time is recomputed, 34 · b · s · h bytes (Korthikanti et al. 2022, "Reducing activation recomputation", eq. 1 without
its attention term, as attention kernels do not keep the scores). Logits: 16 bits, a float32 copy and its gradient.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from adapters.base import BaseModelInfo
from adapters.errors import TrainingError
from trainer.config import Algorithm, LoraSettings

NF4_BYTES = 0.5 + 4 / 64
"""A 4-bit number, and a float32 scale for each block of 64."""

CONTEXT = 0.75 * 2**30
"""CUDA's own context, kernels and allocator slack, in bytes."""

SEQUENCES: dict[Algorithm, int] = {"sft": 1, "dpo": 2, "kto": 2, "reward-model": 2, "grpo": 1, "rloo": 1}
"""Sequences that one row of a batch becomes."""


@dataclass(frozen=True)
class Shape:
    """What memory depends on: sizes of the model, of the LoRA, and of a batch (rows on one device, tokens a row)."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    lora_parameters: int
    batch: int
    length: int
    checkpointing: bool = True


@dataclass(frozen=True)
class Estimate:
    """Bytes on one device, by what they are for."""

    weights: float
    lora: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it, with CUDA's own."""
        return self.weights + self.lora + self.activations + self.logits + CONTEXT

    def __str__(self) -> str:
        parts = {"weights": self.weights, "LoRA and optimizer": self.lora, "activations": self.activations}
        said = ", ".join(f"{name} {_gib(size)}" for name, size in {**parts, "logits": self.logits}.items())
        return f"memory: about {_gib(self.total)} ({said})"


def estimate(shape: Shape, algorithm: Algorithm, bytes_per_weight: float) -> Estimate:
    """What a step needs. `bytes_per_weight`: 4 float32, 2 bfloat16, NF4_BYTES."""
    tokens = shape.batch * shape.length * SEQUENCES[algorithm]
    one_layer = 34 * tokens * shape.hidden
    kept = 2 * tokens * shape.hidden * shape.layers + one_layer if shape.checkpointing else one_layer * shape.layers
    return Estimate(
        weights=shape.parameters * bytes_per_weight,
        lora=16.0 * shape.lora_parameters,
        activations=float(kept),
        logits=float(tokens * shape.vocabulary * (2 + 4 + 4)),
    )


def shape_of(base: BaseModelInfo, lora: LoraSettings, batch: int, length: int, *, checkpointing: bool) -> Shape:
    """The shape of a run on `base`."""
    config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    hidden = int((config.get("text_config") or config)["hidden_size"])
    parameters = sum(out * inside for out, inside in base.modules.values())
    small = lora_parameters(base, lora)
    return Shape(parameters, base.num_layers, hidden, base.vocab_size, small, batch, length, checkpointing)


def lora_parameters(base: BaseModelInfo, lora: LoraSettings) -> int:
    """Numbers in lora_A and lora_B: of the named modules, or of every layer's (for "all-linear" and patterns)."""
    names = lora.target_modules if isinstance(lora.target_modules, tuple) else ()
    linear = [
        size for name, size in base.modules.items() if ".layers." in name and (not names or name.endswith(names))
    ]
    return sum(lora.r * (out + inside) for out, inside in linear)


def check_disk(folder: Path, parameters: int, checkpoints: int) -> None:
    """Raises TrainingError when the disk of `folder` cannot hold a run.

    A checkpoint is the LoRA in float32 with two moments of Adam; one more is written before the oldest goes, and the
    adapter is there twice more.
    """
    needed = parameters * 4 * (3 * (checkpoints + 1) + 2) + (1 << 20)
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise TrainingError(
            f"the disk of {folder} has {free / 2**20:,.0f} MiB free, the run needs about {needed / 2**20:,.0f} MiB: "
            "free space, or set output_dir"
        )


def check(needed: Estimate, free: float) -> None:
    """Raises TrainingError when the device has less than `free` bytes for it."""
    if needed.total > free:
        raise TrainingError(
            f"{needed}, but the GPU has {_gib(free)} free: lower trainer.per_device_train_batch_size or max_length, "
            "or stop what else runs on it"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
