"""What every algorithm is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.base import BaseModelInfo
from trainer.config import Algorithm, RunConfig
from trainer.data import Dataset
from trainer.installation import Installation
from trainer.model import DType
from trainer.run_directory import RunDirectory


@dataclass(frozen=True)
class Job:
    """One run, checked and ready: `<algorithm>.run(job) -> Outcome` does the rest.

    `rows` are the checked training rows (dicts, prompts and completions as chat messages), `held_out` those of
    data.eval. `resume_from` is the newest whole checkpoint, None at the start.
    """

    algorithm: Algorithm
    config: RunConfig
    run: RunDirectory
    installation: Installation
    base: BaseModelInfo                      # what is trained on
    rows: Sequence[Mapping[str, Any]]
    held_out: Sequence[Mapping[str, Any]] = ()
    resume_from: Path | None = None
    init_from: Path | None = None            # directory of the adapter that is continued
    context_length: int = 2048               # tokens that the engines serve
    dtype: DType = "float32"                 # of the weights and the arithmetic
    quiet: bool = False                      # lines instead of a progress bar
    folder: Path = Path()                    # of the configuration file: rewards look their files up there
    dataset: Dataset = field(default_factory=Dataset)  # the rows as token ids with labels, and what was dropped


@dataclass(frozen=True)
class Outcome:
    """What a run made. `adapter`: directory that PEFT saved (PEFT's own files; publishing makes them canonical)."""

    adapter: Path
    step: int                                                 # of the published weights
    marks: Mapping[str, Any] = field(default_factory=dict)    # {"collapsed": True, "reason": …}
    facts: Mapping[str, Any] = field(default_factory=dict)    # numbers for lineage and report: accuracy, gold, …
    files: Mapping[str, bytes] = field(default_factory=dict)  # further files of the version: reward_model.json
