"""A run, checked before anything is loaded or written: its data, its base, its options, what it continues."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from adapters.errors import ConfigError
from adapters.registry import Registry
from adapters.types import VERSION_PATTERN, Kind
from trainer.base_checks import Bases, check_lora, choose_dtype, context_length, find_bases
from trainer.chat import Chat
from trainer.config import RL, Algorithm, RunConfig, load_run_config
from trainer.data import Dataset, Encoder, Limits, load_dataset
from trainer.data_rows import Row
from trainer.installation import Installation, artifact_store, load_installation
from trainer.job import Job
from trainer.run_directory import RunDirectory
from trainer.session import check_processes, world_size

LONG = 5_000
"""Rows from which checking them takes seconds."""

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "compressed-tensors", "understudy")


@dataclass(frozen=True)
class Plan:
    """A checked run: nothing has been written yet."""

    job: Job
    bases: Bases
    chat: Chat


def plan_run(
    algorithm: Algorithm, file: Path, installation_file: Path | None = None, *, quiet: bool = False
) -> Plan:
    """Read and check everything that can be checked before anything is loaded or written. Raises UnderstudyError."""
    config = load_run_config(file, algorithm)
    check_processes(config.processes)
    installation = load_installation(installation_file)
    if config.route in ("auto", installation.engine.served_name):
        raise ConfigError(f"{file}: route {config.route!r} is taken (auto, or engine.served_name): choose another")
    check_lora(config, algorithm, installation.engine.max_lora_rank)
    bases = find_bases(config, installation)
    context = context_length(bases.trained.path, installation)
    from trainer.model import has_gpu, load_tokenizer  # torch: seconds
    from trainer.options import check, max_length

    check(algorithm, config.trainer)
    job = Job(
        algorithm, config, RunDirectory(config.output_dir), installation, bases.trained, (),
        context_length=context, dtype=choose_dtype(config, gpu=has_gpu()), folder=file.resolve().parent, quiet=quiet,
    )  # fmt: skip
    limits = Limits(context if algorithm in RL else max_length(job), context)
    chat = Chat(load_tokenizer(bases.trained.path), bases.trained.path, bases.trained.vocab_size)
    encoder = Encoder(algorithm, config.data, chat, limits, iter if quiet else _shown)
    return Plan(_with_data(job, load_dataset(encoder, config.seed)), bases, chat)


def _shown(rows: Sequence[Row]) -> Iterable[Row]:
    """The rows, with a bar on the terminal where they take long."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not console.is_terminal or len(rows) < LONG
    return track(rows, "checking rows", console=console, transient=True, disable=hidden)


def continued(config: RunConfig, registry: Registry, installation: Installation, bases: Bases) -> Path | None:
    """The files of `init_from`: a version, or an adapter directory. Raises ConfigError, NotFound, ArtifactError."""
    if not config.init_from:
        return None
    if not VERSION_PATTERN.fullmatch(config.init_from):
        if not (Path(config.init_from) / "adapter_config.json").is_file():
            raise ConfigError(f"init_from {config.init_from!r} is neither a version such as support@3f2a9c1b7d20 nor "
                              "an adapter directory")  # fmt: skip
        return Path(config.init_from)
    found = registry.get(config.init_from)
    if found.kind is not Kind.ADAPTER:
        raise ConfigError(f"init_from {found.name} is a {found.kind.replace('_', ' ')}, not an adapter")
    if found.base_digest != bases.trained.digest:
        raise ConfigError(f"init_from {found.name} belongs to base {found.base_digest[:12]}, this run's is "
                          f"{bases.trained.digest[:12]}: the adapter fits its own base only")  # fmt: skip
    return artifact_store(installation).materialise(found.digest)


def frozen(plan: Plan) -> dict[str, Any]:
    """What must be the same when a run is resumed: run.json."""
    job = plan.job
    config = job.config.model_dump(mode="json")
    del config["output_dir"]
    for name in ("train", "eval", "general", "decontaminate"):
        config["data"][name] = [Path(path).name for path in config["data"][name]]
    return {
        "algorithm": job.algorithm,
        "config": config,
        "seed": job.config.seed,
        "world_size": world_size(),
        "dtype": job.dtype,
        "digests": {"base": job.base.digest, "data": dict(job.dataset.digests)},
        "base_mismatch": plan.bases.mismatch,
    }


def environment() -> dict[str, Any]:
    """What may change when a run is resumed, and is only recorded: digest of this code, package versions."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for package in ("adapters", "monitors", "trainer"):
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return {"code": digest.hexdigest(), "packages": {name: _version(name) for name in PACKAGES}}


def _with_data(job: Job, dataset: Dataset) -> Job:
    held_out = [encoded.row.data for encoded in dataset.held_out]
    return replace(job, dataset=dataset, rows=dataset.plain(), held_out=held_out)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
