"""The `[[reward]]` table of training runs and suites, and `[[rewards.grader]]` of understudy.toml: the same table."""

from __future__ import annotations

import math
from typing import Any

from pydantic import Field, field_validator

from adapters.settings import Section

LABEL = r"^([A-Za-z0-9][A-Za-z0-9_.:-]{0,49})?$"     # also a metric's label value


class RewardSpec(Section):
    """One grader: which, how much it counts, and its options (docs/rewards.md)."""

    name: str = Field(
        description='"exact", "number", "regex", "json_schema", "code", "length", "reward_model", "judge", '
        '"ensemble", or "module:function"'
    )
    label: str = Field("", pattern=LABEL, description="its name in metrics and reports; empty = name")
    weight: float = Field(1.0, ge=0, description="its share of the sum, before normalising")
    gold: bool = Field(False, description="only measured, never trained on")
    required: bool = Field(True, description="a sample without this score has no reward at all")
    options: dict[str, Any] = Field(default_factory=dict, description="the grader's own options")

    @field_validator("weight")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("a weight is a finite number")
        return value

    @property
    def shown(self) -> str:
        """The label, or the name."""
        return self.label or self.name
