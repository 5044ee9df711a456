"""Weights without a model: the bytes of an adapter stand for what it answers."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

from adapters.probes import Probes

BASE_KEY = "the base"
PREFIXES = ((1, 20, 21), (1, 30, 31, 32), (1, 39))


def weights_key(directory: Path | str) -> str:
    """What the logprobs depend on."""
    return hashlib.sha256((Path(directory) / "adapter_model.safetensors").read_bytes()).hexdigest()


def logprobs(key: str, prefix: tuple[int, ...]) -> dict[int, float]:
    """Twenty next tokens and their natural logprobs."""
    draw = random.Random(f"{key} {prefix}")
    scores = {token: draw.gauss(0.0, 3.0) for token in draw.sample(range(8, 200), 20)}
    total = math.log(sum(map(math.exp, scores.values())))
    return {token: round(score - total, 6) for token, score in scores.items()}


def record_probes(directory: Path) -> Probes:
    """probes.json for an adapter directory, as this engine will answer."""
    key = weights_key(directory)
    adapter = tuple(logprobs(key, prefix) for prefix in PREFIXES)
    probes = Probes(PREFIXES, adapter, tuple(logprobs(BASE_KEY, prefix) for prefix in PREFIXES), "float32")
    probes.write(directory)
    return probes
