"""What a rollout is to do: steps with weights and durations, metrics with margins. One TOML file, checked when read.

The default is default_plan.toml beside this file, commented; docs/statistics.md explains the choices.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from adapters.errors import ConfigError
from adapters.settings import Section, describe
from gateway.config import Duration, parse_duration
from gateway.rollout.plan_rules import problems_of
from monitors.analysis.spec import Advance, JudgeSpec, MetricSpec

SOURCES = ("responses", "feedback", "graders", "screening", "texts")  # what metrics can be made of
Approval = Literal["auto", "manual"]
MOST_CANDIDATES = 8                # in one rollout: each costs a slot on the engines, and its part of every α


def parse_percent(text: str) -> float:
    """'5%' → 0.05. Raises ValueError for anything without a percent sign, or outside 0 % to 100 %."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"{text!r} is not a percentage: write a number and a percent sign, such as '5%'")
    if (value := float(match[1])) > 100:
        raise ValueError(f"{text} is more than 100%")
    return value / 100


def _check_percent(text: str) -> str:
    parse_percent(text)
    return text


Percent = Annotated[str, AfterValidator(_check_percent)]


class TesterSpec(Section):
    """A unit that is always served by the candidate during the rollout, and left out of the statistics."""

    unit: str = Field(min_length=1, description="what the client sends as x-understudy-unit, safety_identifier or user")
    owner: str = Field("", description="owner of the API key it comes with; empty where keys are not required")


class ShadowPlan(Section):
    """`[shadow]`: the candidate first answers a sample of stable's prompts in the background. Absent: skipped."""

    sample: float = Field(0.1, gt=0, le=1, description="share of stable's requests that are mirrored, 0..1")
    min_pairs: int = Field(100, ge=1, description="pairs of answers, scored by the same graders, before going on")
    min_duration: Duration = Field("5m", description="shortest time in the shadow")
    max_duration: Duration = Field("24h", description="after this time without enough pairs: hold and page")
    approval: Approval = Field("auto", description='"manual": an operator must let it go on')
    concurrency: int = Field(4, ge=1, description="mirrored requests under way at once, per worker")
    ceiling: int = Field(32, ge=1, description="requests in flight per worker above which nothing is mirrored")


class Step(Section):
    """`[[step]]`: a share of the traffic, and what must be true before the next one. After the last comes 100 %."""

    weight: Percent = Field(description='the candidate\'s share, such as "5%"')
    min_units: int = Field(100, ge=1, description="units (users) seen on each arm before going on")
    min_duration: Duration = Field("10m", description="shortest time at this weight")
    max_duration: Duration = Field("24h", description="after this time without a verdict: hold and page, never promote")
    approval: Approval = Field("auto", description='"manual": an operator must let it go on')
    advance: Advance = Field(
        "no_harm", description="no_harm: go on unless harm shows; evidence: guardrails and primary rule must pass"
    )
    horizon: int = Field(0, ge=0, description="units per arm at which a fixed-horizon test decides; 0: sequential")

    @property
    def share(self) -> float:
        """The weight as a share, 0..1."""
        return parse_percent(self.weight)


class Plan(Section):
    """The whole of a plan file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)

    name: str = Field("default", min_length=1, max_length=60, description="shown in listings and histories")
    alpha: float = Field(0.05, gt=0, le=0.2, description="chance of promoting a version that is worse than tolerated")
    harm_alpha: float = Field(0.001, gt=0, le=0.05, description="chance of ever rolling back a harmless version")
    power: float = Field(0.8, gt=0.5, lt=1, description="chance of promoting an equal version; sizes come from it")
    breaker: int = Field(5, ge=1, description="failures in a row after which a worker serves stable by itself")
    holdout: Percent = Field("0%", description="share of units that always stay on stable, also during the last step")
    tuning_units: int = Field(5000, ge=100, description="units of both arms where confidence sequences are tightest")
    shadow: ShadowPlan | None = Field(None, description="the phase before the first user is served; absent: skipped")
    split: tuple[float, ...] = Field(
        (), max_length=MOST_CANDIDATES,
        description="several candidates: how a step's weight is divided among them, such as [2, 1]; empty: equally",
    )
    steps: tuple[Step, ...] = Field(alias="step", min_length=1, description="the ramp, in order")
    metrics: tuple[MetricSpec, ...] = Field(alias="metric", min_length=1, description="what is judged")
    testers: tuple[TesterSpec, ...] = Field((), alias="tester", description="units pinned to the candidate")

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        for problem in problems_of(self):
            raise ValueError(problem)
        return self

    @property
    def holdout_share(self) -> float:
        """The holdout as a share, 0..1."""
        return parse_percent(self.holdout)

    def parts(self, candidates: int) -> tuple[float, ...]:
        """How the weight is divided among so many candidates; the sum is 1. Raises ConfigError."""
        if candidates > MOST_CANDIDATES:
            raise ConfigError(f"{candidates} candidates are too many for one rollout: name at most {MOST_CANDIDATES}")
        split = self.split or (1.0,) * candidates
        if len(split) != candidates:
            raise ConfigError(f"plan {self.name!r} splits the weight among {len(split)} candidates, not {candidates}")
        return tuple(part / sum(split) for part in split)

    @property
    def sources(self) -> frozenset[str]:
        """What must be configured for the metrics that can hold the plan up."""
        return frozenset(metric.source for metric in self.metrics if metric.gating)

    @property
    def phases(self) -> int:
        """How often tests begin anew: the shadow and the steps."""
        return len(self.steps) + (self.shadow is not None)

    def judge_spec(self, step: int) -> JudgeSpec:
        """The rules of step number `step`, from 0."""
        rules = self.steps[step]
        return JudgeSpec(
            metrics=self.metrics, alpha=self.alpha, harm_alpha=self.harm_alpha, min_units=rules.min_units,
            min_duration=parse_duration(rules.min_duration), max_duration=parse_duration(rules.max_duration),
            advance=rules.advance, horizon=rules.horizon, tuning_units=self.tuning_units, phases=self.phases,
        )  # fmt: skip

    def shadow_spec(self) -> JudgeSpec:
        """The rules of the shadow phase. Raises ConfigError for a plan without one."""
        if self.shadow is None:
            raise ConfigError(f"plan {self.name!r} has no shadow phase")
        return JudgeSpec(
            metrics=self.metrics, alpha=self.alpha, harm_alpha=self.harm_alpha, shadow=True, advance="no_harm",
            min_pairs=self.shadow.min_pairs, min_duration=parse_duration(self.shadow.min_duration),
            max_duration=parse_duration(self.shadow.max_duration), tuning_units=self.tuning_units, phases=self.phases,
        )  # fmt: skip


def default_plan(sources: Collection[str] = SOURCES) -> Plan:
    """The shipped plan, without the metrics whose sources are not configured.

    Its primary metric is satisfaction; without feedback the reward, and without graders the error rate.
    """
    plan = load_plan(Path(__file__).with_name("default_plan.toml"))
    kept = [metric for metric in plan.metrics if metric.source in sources]
    if not any(metric.role == "primary" for metric in kept):
        first = next((m for m in kept if m.name == "reward"), kept[0])
        kept = [m.model_copy(update={"role": "primary"}) if m is first else m for m in kept]
    return Plan(**{**plan.model_dump(by_alias=False), "metrics": tuple(kept)})


def load_plan(path: Path) -> Plan:
    """Read a plan file. Raises ConfigError with one line: the key, what is wrong, and the nearest known key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"plan {path} cannot be read: {reason}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"plan {path} is not valid TOML: {error}") from None
    return _validated(data, f"plan {path}")


def to_json(plan: Plan) -> dict[str, Any]:
    """Plain values, as stored with a rollout."""
    return plan.model_dump(mode="json", by_alias=True)


def from_json(body: dict[str, Any]) -> Plan:
    """Inverse of to_json; also reads what an API client sends. Raises ConfigError."""
    return _validated(body, "plan")


def _validated(data: Any, source: str) -> Plan:
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_reason(error)}") from None


def _reason(error: ValidationError) -> str:
    """The first problem in one line. A rule over several keys needs no echo of the whole table."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"] and first["type"] != "value_error":
        return message
    if first["type"] == "extra_forbidden":
        return _unknown_key(error)
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        where = ".".join(map(str, first["loc"]))
        return f"{where}: {message}" if where else message
    return describe(error, Plan).replace("Value error, ", "")


def _unknown_key(error: ValidationError) -> str:
    """Names the nearest key; at the top also for the plurals, which people try first."""
    path = [str(part) for part in error.errors()[0]["loc"]]
    known = [field.alias or name for name, field in Plan.model_fields.items()]
    if len(path) > 1:
        return describe(error, Plan)
    near = difflib.get_close_matches(path[0], known, n=1, cutoff=0.0)[0]
    return f"unknown key {path[0]!r}; the nearest known one is {near!r}"
