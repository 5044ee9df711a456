"""`[collapse]`: the detector of reward collapse (docs/collapse.md)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from adapters.settings import Section
from gateway.setting_types import Duration

Kind = Literal["thumb", "rating", "task", "regenerate", "edit", "abandon"]


class CollapseSettings(Section):
    """`[collapse]`: does the automated reward still predict satisfaction? Needs graders and feedback."""

    enabled: bool = Field(True, description="watch rollouts, promoted versions and every route's version")
    grader: str = Field("", description="whose score is the reward; empty = the weighted mean of all of [rewards]")
    kinds: tuple[Kind, ...] = Field(
        ("thumb", "rating", "task"), min_length=1, description="kinds of feedback that are satisfaction"
    )
    baseline: int = Field(
        2000, ge=100, description="feedbacks of the version before that it is calibrated on; fewer: no verdict"
    )
    minimum: int = Field(100, ge=20, description="feedbacks of a version before which nothing is concluded of it")
    method: Literal["platt", "isotonic"] = Field("platt", description="how P(satisfied | reward) is fitted")
    epsilon: float = Field(0.03, gt=0, lt=0.5, description="alignment tax and fall of satisfaction that is tolerated")
    threshold: float = Field(10_000.0, ge=20, description="feedbacks to a false alarm, on average, at least")
    wait: Duration = Field("10s", description="how long a feedback waits for the score of its answer")
    every: Duration = Field("2s", description="pause between two looks at new feedback")
    stale: Duration = Field("24h", description="without feedback for so long a verdict is inconclusive")
