"""From what PEFT saved to a registered version: canonical config, tensors, probes, manifest, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from adapters.base import BaseModelInfo
from adapters.registry import Registry
from adapters.types import AdapterVersion
from trainer.job import Job, Outcome

CONFIG, TENSORS, MANIFEST = "adapter_config.json", "adapter_model.safetensors", "manifest.json"


def publish(job: Job, outcome: Outcome, registry: Registry, serving: BaseModelInfo, *, actor: str) -> AdapterVersion:
    """Write run/adapter from what was trained, record its probes, and register it.

    Lineage: run, algorithm, config and data digests, base digest, parent, step, marks. Raises AdapterRejected,
    Conflict, ArtifactError, TrainingError. The same weights again are the same version.
    """
    raise NotImplementedError


def canonicalise(path: Path, base: str) -> None:
    """Rewrites adapter_config.json with sorted keys and lists, naming its base as given.

    PEFT writes target_modules from a set, in another order in every process, and the
    absolute path of the base, which means nothing elsewhere.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
