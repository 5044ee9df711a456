"""From what PEFT saved to a registered version: canonical config, tensors, probes, manifest, and nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapters.adapter_config import HEAD
from adapters.base import BaseModelInfo
from adapters.errors import ConfigError, TrainingError
from adapters.manifest import CONFIG, MANIFEST, PROBES, TENSORS
from adapters.registry import Registry
from adapters.types import AdapterVersion, Kind
from trainer.base_checks import Bases
from trainer.job import Job, Outcome
from trainer.probes import record_probes

Facts = Mapping[str, Any]


def publish(job: Job, outcome: Outcome, registry: Registry, bases: Bases, *, actor: str) -> AdapterVersion:
    """Write run/adapter from what was trained, record its probes, and register it.

    Lineage: run, algorithm, config and data digests, base digest, parent, step, marks. Raises AdapterRejected,
    Conflict, ArtifactError, TrainingError. The same weights again are the same version.
    """
    folder = write_adapter(job, outcome, bases)
    installation = job.installation
    return registry.push(
        folder,
        job.config.route,
        base=bases.serving,
        max_rank=installation.engine.max_lora_rank,
        lineage=lineage(job, outcome),
        actor=actor,
        kind=Kind.REWARD_MODEL if job.algorithm == "reward-model" else Kind.ADAPTER,
    )


def write_adapter(job: Job, outcome: Outcome, bases: Bases) -> Path:
    """run/adapter: the canonical files of the version, whole or not at all; returns it."""
    folder, new = job.run.adapter, job.run.path / ".adapter"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for name in (CONFIG, TENSORS):
        if not (outcome.adapter / name).is_file():
            raise TrainingError(f"{outcome.adapter} has no {name}: training saved nothing")
        shutil.copyfile(outcome.adapter / name, new / name)
    canonicalise(new / CONFIG, job.config.base or job.installation.engine.base_model)
    if job.algorithm != "reward-model":
        _record_probes(job, new, bases.serving)
    for name, content in outcome.files.items():
        (new / name).write_bytes(content)
    manifest = json.dumps(manifest_of(job, outcome, bases), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    (new / MANIFEST).write_text(manifest, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return folder


def manifest_of(job: Job, outcome: Outcome, bases: Bases) -> dict[str, Any]:
    """manifest.json: what the weights are. Without time or place: the same run, the same bytes."""
    made: dict[str, Any] = {"algorithm": job.algorithm, "dtype": job.dtype, "seed": job.config.seed}
    if bases.mismatch is None:
        made["base_digest"] = bases.trained.digest
    else:
        made["base_mismatch"] = bases.mismatch
    for name, content in outcome.files.items():
        made[name.removesuffix(".json")] = json.loads(content)
    return made


def lineage(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Where the version comes from; marks also stand at the top, where listings show them."""
    config = json.dumps(job.config.model_dump(mode="json"), sort_keys=True).encode()
    return {
        "run": job.run.name,
        "algorithm": job.algorithm,
        "base_digest": job.base.digest,
        "parent": job.config.init_from or None,
        "config_digest": hashlib.sha256(config).hexdigest(),
        "data": dict(job.dataset.digests),
        "seed": job.config.seed,
        "step": outcome.step,
        "facts": dict(outcome.facts),
        "marks": dict(outcome.marks),
        **outcome.marks,
    }


def canonicalise(path: Path, base: str) -> None:
    """Rewrites adapter_config.json with sorted keys and lists, naming its base as given.

    PEFT writes target_modules from a set, in another order in every process, and the
    absolute path of the base, which means nothing elsewhere.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    if config.get("task_type") == "SEQ_CLS":
        config["modules_to_save"] = [HEAD]  # PEFT also lists names that this model has not
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _record_probes(job: Job, folder: Path, serving: BaseModelInfo) -> None:
    """What the engines should answer, on the base that serves. Left out where that cannot be computed here."""
    texts = [encoded.row.prompt_text() for encoded in job.dataset.rows] or None
    try:
        record_probes(serving.path, folder, texts=texts, nf4=job.config.quantization == "nf4").write(folder)
    except ConfigError:  # a serving base that is not here, with allow_base_mismatch
        (folder / PROBES).unlink(missing_ok=True)
