"""TRL callbacks of every run: metrics.jsonl, a progress bar, and the marker that makes a checkpoint count."""

from __future__ import annotations

from typing import Any

from trainer.job import Job


def callbacks(job: Job) -> list[Any]:
    """Progress, metrics and checkpoint markers; on every rank but the first: none that writes."""
    raise NotImplementedError
