"""`[trainer]`: TRL's own options, checked against the installed TRL, with defaults that suit LoRA."""

from __future__ import annotations

from typing import Any

from trainer.job import Job


def arguments(job: Job, **forced: Any) -> Any:
    """TRL's config object of `job.algorithm` (SFTConfig, GRPOConfig, …).

    Defaults for LoRA, then `[trainer]`, then what a run directory needs (output_dir, saving, no telemetry), then
    `forced`. Raises ConfigError for an unknown option (naming the nearest) and for values TRL refuses.
    """
    raise NotImplementedError
