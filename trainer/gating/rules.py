"""The promotion rules as a file: thresholds that make "may this ship?" reproducible. Every key has a sound default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from adapters.settings import Section, load

Limit = Literal["under_refusal", "over_refusal", "failure", "duplicate_4gram", "ece"]


class Ceiling(Section):
    """One `[[ceiling]]`: a hard limit on one slice, whatever stable does. The upper bound must be within it."""

    slice: str = Field(description="the slice's name")
    metric: Limit = Field("failure", description="failure is 1 - pass@1")
    most: float = Field(gt=0, lt=1, description="the one-sided upper bound must not exceed this")


class PromotionRules(Section):
    """The whole file. 0 switches a budget off; no data never passes a rule."""

    suites: tuple[str, ...] = Field((), description="required suites; empty: all that either version was evaluated on")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="intervals are 1 - alpha; one-sided bounds use alpha too")
    improvement: Literal["required", "no_harm"] = Field(
        "required", description="north star: significantly better, or (no_harm) not worse than by no_harm_margin"
    )
    min_improvement: float = Field(0.0, ge=0, lt=1, description="the interval's lower end must lie above this")
    no_harm_margin: float = Field(0.02, gt=0, lt=1, description='with improvement = "no_harm"')
    max_under_refusal: float = Field(0.05, ge=0, lt=1, description="hard ceiling on every labelled slice; 0 = none")
    max_over_refusal: float = Field(0.10, ge=0, lt=1, description="likewise")
    max_ece: float = Field(0.0, ge=0, lt=1, description="ECE's upper end on every slice; 0 = no limit")
    max_duplicate_increase: float = Field(
        0.10, ge=0, lt=1, description="duplicate 4-grams beyond stable's, on every slice; 0 = no limit"
    )
    max_token_ratio: float = Field(1.5, ge=0, description="answer tokens against stable's; 0 = no limit")
    max_latency_ratio: float = Field(0.0, ge=0, description="p50 of an answer's seconds against stable's; 0 = no limit")
    max_latency_p99: float = Field(0.0, ge=0, description="seconds; 0 = no limit")
    max_rank: int = Field(0, ge=0, description="of the adapter; 0 = no limit")
    max_size_mib: float = Field(0.0, ge=0, description="of the adapter; 0 = no limit")
    source: Literal["any", "gateway"] = Field("any", description="gateway: evaluations made with --local do not count")
    max_missing: float = Field(0.02, ge=0, lt=1, description="share of answers that could not be graded")
    max_age_days: float = Field(30.0, gt=0, description="older evaluations do not count")
    refused_marks: tuple[str, ...] = Field(
        ("collapsed", "base_mismatch"), description="marks of the training run that keep a version from users"
    )
    ceiling: tuple[Ceiling, ...] = Field((), description="hard limits on single slices")

    @field_validator("ceiling")
    @classmethod
    def _once(cls, value: tuple[Ceiling, ...]) -> tuple[Ceiling, ...]:
        keys = [(ceiling.slice, ceiling.metric) for ceiling in value]
        if len(set(keys)) < len(keys):
            raise ValueError("a slice and metric has two ceilings")
        return value


def load_rules(path: Path | None) -> PromotionRules:
    """Read a rules file; None: the defaults. Raises ConfigError."""
    return load(PromotionRules, path, environ={}) if path else PromotionRules()
