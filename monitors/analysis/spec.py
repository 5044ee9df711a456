"""What is to be judged: metrics with direction, role and margin, and the rules of one step of a rollout.

No numpy here: plans are read by commands that must be quick.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from adapters.settings import Section

Role = Literal["primary", "guardrail", "exploratory"]
Direction = Literal["increase", "decrease"]
Kind = Literal["event", "mean"]
MarginUnit = Literal["absolute", "sd", "ratio"]
Goal = Literal["noninferior", "superior"]
Advance = Literal["no_harm", "evidence"]
Finite = Annotated[float, Field(allow_inf_nan=False)]

_EVENT = {"kind": "event", "direction": "decrease", "margin": 0.01, "margin_unit": "absolute", "bounded": True}
_RATIO = {**_EVENT, "margin": 1.25, "margin_unit": "ratio", "floor": 0.01}
_SLOW = {**_RATIO, "null_risk": 1.25, "warmup": 60.0}
_SCORE = {
    "kind": "mean", "direction": "increase", "margin": 0.05, "margin_unit": "sd", "floor": 0.005, "bounded": True,
}  # fmt: skip
_TEXT = {"kind": "mean", "direction": "decrease", "margin": 0.1, "margin_unit": "sd"}
_COST = {"kind": "mean", "direction": "decrease", "margin": 1.1, "margin_unit": "ratio"}

# Every metric a plan may name, and what holds for it unless the plan says otherwise (statistics.md, default margins).
KNOWN: dict[str, dict[str, Any]] = {
    "error": _EVENT,               # a 5xx answer
    "truncated": _EVENT,           # a stream that broke
    "empty": _EVENT,               # no text and no tool call
    "non_finite": _EVENT,          # the engine computed NaN or infinity
    "guard": {**_RATIO, "source": "screening"},       # the guard calls the answer unsafe
    "unscreened": {**_RATIO, "source": "screening"},  # it was to be screened, and there was no verdict
    "thumbs_down": {**_RATIO, "source": "feedback"},
    "slow_ttft": {**_SLOW, "objective": 2.0},
    "slow_duration": {**_SLOW, "objective": 30.0},
    "satisfaction": {**_SCORE, "margin": 0.02, "margin_unit": "absolute", "source": "feedback"},
    "reward": {**_SCORE, "source": "graders"},
    "tokens": _COST,               # output tokens of an answer
    "ttft": _COST,                 # seconds
    "duration": _COST,             # seconds
    "cost": _COST,
}
# Metrics with a free second part: reward.<grader> and text.<statistic>.
FAMILIES: dict[str, dict[str, Any]] = {"reward.": KNOWN["reward"], "text.": {**_TEXT, "source": "texts"}}


def known_defaults(name: str) -> dict[str, Any]:
    """What holds for a metric of this name. Raises ValueError that names the nearest known one."""
    family = next((values for prefix, values in FAMILIES.items() if name.startswith(prefix) and name != prefix), None)
    defaults = KNOWN.get(name, family)
    if defaults is None:
        near = difflib.get_close_matches(name, [*KNOWN, "reward.<grader>", "text.<statistic>"], n=1, cutoff=0.0)[0]
        raise ValueError(f"unknown metric {name!r}; the nearest known one is {near!r}")
    return defaults


class MetricSpec(Section):
    """One metric of a plan. What is left out comes from the table of known metrics, by name."""

    name: str = Field(description="error, truncated, empty, non_finite, guard, unscreened, thumbs_down, slow_ttft, "
                      "slow_duration, satisfaction, reward, reward.<grader>, text.<statistic>, tokens, ttft, duration "
                      "or cost")
    role: Role = Field("guardrail", description="primary: decides; guardrail: must not get worse; exploratory: shown")
    direction: Direction = Field("decrease", description="which way is better")
    goal: Goal = Field("noninferior", description="what a primary metric must show: not worse, or better")
    margin: Finite = Field(0.01, gt=0, description="how much worse is tolerated, in margin_unit; always positive")
    margin_unit: MarginUnit = Field(
        "absolute", description="absolute; sd: standard deviations over stable's units; ratio: candidate / stable, > 1"
    )
    floor: Finite = Field(0.0, ge=0, description="with ratio or sd: an absolute difference tolerated in any case")
    objective: Finite = Field(0.0, ge=0, description="slow_ttft and slow_duration: seconds above which one is slow")
    warmup: Finite = Field(0.0, ge=0, description="seconds after a version's first traffic that do not count")
    null_risk: float = Field(1.0, ge=1, le=100, description="events: relative risk that is no reason to roll back")
    kind: Kind = Field("mean", description="event: a bad thing that happens or not; mean: a number per answer")
    bounded: bool = Field(False, description="values lie in 0..1")
    source: str = Field("responses", description="what must be configured: responses, feedback, graders, screening, "
                        "texts")

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("name"), str):
            return {**known_defaults(data["name"]), **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> MetricSpec:
        if self.margin_unit == "ratio" and self.margin <= 1:
            raise ValueError(f"{self.name}: a ratio margin must be above 1, such as 1.25, not {self.margin:g}")
        if self.margin_unit == "ratio" and self.direction == "increase":
            raise ValueError(f"{self.name}: a ratio margin is for metrics that should decrease; use absolute or sd")
        if self.margin_unit == "absolute" and self.bounded and self.margin >= 1:
            raise ValueError(f"{self.name}: a margin of {self.margin:g} on values in 0..1 tolerates everything")
        if self.name.startswith("slow_") and self.objective == 0:
            raise ValueError(f"{self.name}: needs objective, the seconds above which an answer is slow")
        if self.kind == "event" and self.direction != "decrease":
            raise ValueError(f"{self.name}: bad events should decrease")
        return self

    @property
    def gating(self) -> bool:
        """True when it can stop a rollout or a promotion; exploratory metrics are only shown."""
        return self.role != "exploratory"


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """The rules of one step, or of the shadow phase (`shadow`). Durations in seconds, shares and α in 0..1."""

    metrics: tuple[MetricSpec, ...]
    alpha: float = 0.05            # one-sided error of a promotion
    harm_alpha: float = 0.001      # chance of ever rolling back a version that does no harm, over all guardrails
    min_units: int = 100           # per arm
    min_duration: float = 0.0
    max_duration: float = float("inf")
    advance: Advance = "evidence"  # no_harm: go on unless harm shows; evidence: non-inferiority and the primary rule
    horizon: int = 0               # units per arm of a fixed-horizon test; 0: confidence sequences
    tuning_units: float = 5000.0   # both arms: where the confidence sequences are tightest
    shadow: bool = False           # judge pairs instead of arms
    min_pairs: int = 0
    phases: int = 1                # of the rollout: tests that begin anew in each of them share a metric's α
