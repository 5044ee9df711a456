"""`[trainer]`: TRL's own options, checked against the installed TRL, with defaults that suit LoRA."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from adapters.errors import ConfigError
from trainer.config import Algorithm
from trainer.job import Job
from trainer.model import first_line, has_gpu

CONFIG_CLASSES: Mapping[Algorithm, str] = {
    "sft": "SFTConfig", "dpo": "DPOConfig", "kto": "KTOConfig", "reward-model": "RewardConfig",
    "grpo": "GRPOConfig", "rloo": "RLOOConfig",
}  # fmt: skip
"""Algorithm → TRL's class of its options."""

LEARNING_RATES: Mapping[Algorithm, float] = {
    "sft": 2e-4, "dpo": 1e-5, "kto": 1e-5, "reward-model": 1e-4, "grpo": 1e-5, "rloo": 1e-5,
}  # fmt: skip
"""Ten times TRL's, which suit full fine-tuning: the optimum of LoRA lies about there ("LoRA Without Regret", 2025)."""

LONGEST = 2048
"""Tokens of a row at most, unless max_length says otherwise or the engines' context is shorter."""

OURS: Mapping[str, str] = {
    "output_dir": "it is the run directory: set output_dir at the top of the file",
    "resume_from_checkpoint": "use --resume",
    "save_strategy": "checkpoints are saved every save_steps",
    "save_only_model": "a checkpoint without its optimizer could not be resumed",
    "load_best_model_at_end": "what is published is decided by [health] publish",
    "disable_tqdm": "progress is shown by the command",
    "logging_nan_inf_filter": "it would hide a diverged run",
    "logging_strategy": "set logging_steps",
    "push_to_hub": "versions go to the registry",
    "use_cpu": "the GPU is used where there is one",
    "bf16": "set dtype at the top of the file",
    "fp16": "set dtype at the top of the file",
    "remove_unused_columns": "columns are chosen by the algorithm",
    "completion_only_loss": "the loss is always on what the assistant says, and on nothing else",
    "assistant_only_loss": "the loss is always on what the assistant says, and on nothing else",
    "dataset_kwargs": "rows are tokenised before TRL sees them",
    "chat_template_path": "the template is the serving base's",
    "eos_token": "the tokenizer is the serving base's",
    "pad_token": "the tokenizer is the serving base's",
    "model_init_kwargs": "the base is loaded as it serves: see base, quantization and dtype",
    "use_vllm": 'set [completions] source = "vllm"',
    "full_determinism": "runs on the CPU are always repeatable",
}
"""Options that a run directory or the same-weights rule decides, and where to say it instead."""


def check(algorithm: Algorithm, options: Mapping[str, Any]) -> None:
    """Every key of `[trainer]` is an option of the installed TRL, of the right type, and free to choose.

    Raises ConfigError naming the nearest option. Imports TRL (seconds).
    """
    known = {field.name: field for field in dataclasses.fields(config_class(algorithm)) if field.init}
    for name, value in options.items():
        if name in OURS or name.startswith(("hub_", "do_")):
            raise ConfigError(f"trainer.{name} cannot be set here: {OURS.get(name, 'it has no meaning for a run')}")
        if name not in known:
            near = difflib.get_close_matches(name, known.keys() - OURS.keys(), n=1, cutoff=0.0)[0]
            raise ConfigError(f"trainer.{name}: TRL's {CONFIG_CLASSES[algorithm]} has no such option; nearest: {near}")
        _check_type(name, value, known[name].default)


def arguments(job: Job, **forced: Any) -> Any:
    """TRL's config object of `job.algorithm` (SFTConfig, GRPOConfig, …).

    Defaults for LoRA, then `[trainer]`, then what a run directory needs (output_dir, saving, no telemetry), then
    `forced`. Raises ConfigError for an unknown option (naming the nearest) and for values TRL refuses.
    """
    check(job.algorithm, job.config.trainer)
    made = config_class(job.algorithm)
    values = {**_defaults(job), **job.config.trainer, **_of_the_run(job), **forced}
    names = {field.name for field in dataclasses.fields(made)}
    try:
        return made(**{name: value for name, value in values.items() if name in names})
    except (ValueError, TypeError, NotImplementedError, ImportError, RuntimeError) as error:
        raise ConfigError(f"[trainer]: {first_line(error)}") from None


def config_class(algorithm: Algorithm) -> Any:
    """TRL's dataclass of options. Imports TRL (seconds)."""
    from trainer.session import no_telemetry

    no_telemetry()
    import trl

    return getattr(trl, CONFIG_CLASSES[algorithm])


def max_length(job: Job) -> int:
    """Tokens of a row at most: `[trainer] max_length`, else LONGEST, and never beyond the context that is served.

    Raises ConfigError for a length that the context does not hold.
    """
    wanted = job.config.trainer.get("max_length")
    if wanted is None:
        return min(LONGEST, job.context_length)
    if type(wanted) is not int or not 1 <= wanted <= job.context_length:
        raise ConfigError(f"trainer.max_length is {wanted}: from 1 to {job.context_length} tokens, the served context")
    return wanted


def _defaults(job: Job) -> dict[str, Any]:
    return {
        "learning_rate": LEARNING_RATES[job.algorithm],
        "num_train_epochs": 1,
        "num_generations": 8,
        "max_length": max_length(job) if job.algorithm not in ("grpo", "rloo") else None,
        "logging_steps": 1,
        "save_steps": 50,
        "save_total_limit": 2,
        "gradient_checkpointing": has_gpu(),
        "report_to": [],
        "run_name": job.run.name,
        "eval_strategy": "no",
    }


def _of_the_run(job: Job) -> dict[str, Any]:
    keep = int(job.config.trainer.get("save_total_limit") or 2)
    return {
        "output_dir": str(job.run.checkpoints),
        "save_strategy": "steps",
        "save_total_limit": max(2, keep),  # the newest may be torn
        "use_cpu": not has_gpu(),
        "bf16": job.dtype == "bfloat16",
        "fp16": False,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "ddp_find_unused_parameters": False,  # every LoRA weight takes part in every step
    }


def _check_type(name: str, value: Any, default: Any) -> None:
    kinds: tuple[type, ...]
    if isinstance(default, bool):
        kinds, said = (bool,), "true or false"
    elif isinstance(default, int):
        kinds, said = (int, float), "a number"  # transformers declares whole numbers for some that take shares
    elif isinstance(default, float):
        kinds, said = (int, float), "a number"
    else:
        return
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"trainer.{name} is {value!r}: it should be {said}")
