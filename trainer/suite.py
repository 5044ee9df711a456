"""Evaluation suites: behavioural slices of prompts, how they are sampled and graded. No torch, no gateway.

    [suite]
    name = "support"
    north_star = "refunds"             # a slice, "slice.metric", or "mean" (of every slice's pass@1)

    [[slice]]
    name = "refunds"
    file = "refunds.jsonl"             # rows as GRPO's: {"prompt": [...], "answer": ..., further columns}
    graders = ["exact"]                # or tables {name, weight, options} as [[reward]]
    k = 1
    margin = 0.05                      # how much worse than stable this slice may be

A row may carry `should_refuse` (true or false); then all rows of its slice must: over- and under-refusal are measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from adapters.errors import ConfigError, TrainingError
from adapters.settings import Section, load
from monitors.rewards.settings import RewardSpec
from trainer.refusal import REFUSALS, compile_patterns
from trainer.suite_rows import Message, Row, check_different, read_rows

__all__ = ["MEAN", "METRICS", "Message", "Metric", "Row", "Slice", "Suite", "load_suite", "split_north_star"]

Metric = Literal["pass_at_1", "pass_at_k", "score"]
METRICS: tuple[Metric, ...] = ("pass_at_1", "pass_at_k", "score")
MEAN = "mean"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?")


class SuiteSettings(Section):
    """`[suite]`: what every slice shares."""

    name: str = Field(min_length=1, max_length=200, description="evaluations are compared by this name and a digest")
    north_star: str = Field(MEAN, description='the metric that decides: a slice, "slice.metric", or "mean"')
    max_tokens: int = Field(256, ge=1, description="longest answer in tokens")
    temperature: float = Field(1.0, ge=0, le=2, description="1: what users of a sampled model see; 0: greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 = the whole distribution")
    seed: int = Field(0, ge=0, description="every sample's own seed is drawn from it: the same for every version")
    confidence: Literal["sequence", "token", "none"] = Field(
        "sequence", description="for ECE: exp(sum of the answer's logprobs), exp(their mean), or not measured"
    )
    price_input: float = Field(0.0, ge=0, description="of a million prompt tokens, in any currency")
    price_output: float = Field(0.0, ge=0, description="of a million answer tokens")
    refusals: tuple[str, ...] = Field(REFUSALS, description="patterns at an answer's beginning that mean a refusal")

    @field_validator("refusals")
    @classmethod
    def _compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        compile_patterns(value)
        return value


class SliceSettings(Section):
    """One `[[slice]]`."""

    name: str = Field(description="lower-case letters, digits, - and _")
    file: Path = Field(description="JSONL, relative to the suite's file")
    graders: tuple[RewardSpec, ...] = Field((), description="names or tables; none: only refusals are looked at")
    k: int = Field(1, ge=1, le=1000, description="of pass@k")
    samples: int = Field(0, ge=0, le=1000, description="answers for each prompt; 0 = k")
    threshold: float = Field(1.0, ge=0, le=1, description="an answer with this score or more is right")
    margin: float = Field(0.05, gt=0, lt=1, description="how much worse than stable this slice's pass@1 may be")
    limit: int = Field(0, ge=0, description="only the first rows; 0 = all")
    max_tokens: int | None = Field(None, ge=1, description="instead of the suite's")
    temperature: float | None = Field(None, ge=0, le=2, description="instead of the suite's")

    @field_validator("name")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or value == MEAN:
            raise ValueError("a slice's name is lower-case letters, digits, - and _ (and not mean)")
        return value

    @field_validator("graders", mode="before")
    @classmethod
    def _names_are_tables(cls, value: Any) -> Any:
        many = value if isinstance(value, list | tuple) else [value]
        return tuple({"name": item} if isinstance(item, str) else item for item in many)

    @model_validator(mode="after")
    def _enough_samples(self) -> SliceSettings:
        if self.samples and self.samples < self.k:
            raise ValueError(f"samples ({self.samples}) must be at least k ({self.k})")
        return self

    @property
    def n(self) -> int:
        """Answers for each prompt."""
        return self.samples or self.k


class _File(Section):
    suite: SuiteSettings
    slice: tuple[SliceSettings, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Slice:
    """One behavioural slice with its rows; sampling settings are resolved."""

    settings: SliceSettings
    rows: tuple[Row, ...]
    max_tokens: int
    temperature: float

    @property
    def name(self) -> str:
        """As in the file."""
        return self.settings.name

    @property
    def labelled(self) -> bool:
        """True when its rows say what should be refused."""
        return self.rows[0].should_refuse is not None


@dataclass(frozen=True, slots=True)
class Suite:
    """A whole suite, read and checked. `folder`: what relative paths and user graders are looked up in."""

    settings: SuiteSettings
    slices: tuple[Slice, ...]
    folder: Path

    @property
    def name(self) -> str:
        """As in the file."""
        return self.settings.name

    def prompts(self) -> list[tuple[Message, ...]]:
        """Every prompt, as chat messages: what must not be trained on."""
        return [row.prompt for part in self.slices for row in part.rows]

    def __iter__(self) -> Iterator[Slice]:
        return iter(self.slices)


def split_north_star(text: str) -> tuple[str, Metric]:
    """'refunds.score' → ('refunds', 'score'); a bare slice or "mean" means its pass@1. Raises ConfigError."""
    name, dot, metric = text.partition(".")
    if not dot:
        return name, "pass_at_1"
    for known in METRICS:
        if metric == known and name != MEAN:
            return name, known
    raise ConfigError(f'north_star {text!r}: write a slice, "slice.{"|".join(METRICS)}", or "{MEAN}"')


def load_suite(path: Path) -> Suite:
    """Read a suite and all its rows. Raises ConfigError, and TrainingError with file and line for a bad row."""
    # A frozen environment is not to be changed by variables.
    found = load(_File, path, environ={}, advice="docs/evaluation.md says what a suite is")
    names = [part.name for part in found.slice]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{path}: slice {doubled!r} is there twice")
    star, _ = split_north_star(found.suite.north_star)
    if star != MEAN and star not in names:
        raise ConfigError(f"{path}: north_star {star!r} is no slice; there are {', '.join(names)}")
    folder = path.resolve().parent
    return Suite(found.suite, tuple(_slice(found.suite, part, folder) for part in found.slice), folder)


def _slice(suite: SuiteSettings, settings: SliceSettings, folder: Path) -> Slice:
    rows = tuple(read_rows(folder / settings.file))[: settings.limit or None]
    if not rows:
        raise TrainingError(f"{folder / settings.file}: slice {settings.name} has no prompts")
    check_different(rows)
    odd = next((row for row in rows if (row.should_refuse is None) != (rows[0].should_refuse is None)), None)
    if odd:
        raise TrainingError(f"{odd.where}: either every row of slice {settings.name} has should_refuse, or none")
    if not settings.graders and rows[0].should_refuse is None:
        raise ConfigError(f"slice {settings.name} has no graders, and its rows no should_refuse: nothing is measured")
    temperature = suite.temperature if settings.temperature is None else settings.temperature
    if temperature == 0 and settings.n > 1:
        raise ConfigError(f"slice {settings.name} takes {settings.n} samples at temperature 0: all would be the same")
    return Slice(settings, rows, settings.max_tokens or suite.max_tokens, temperature)
