from __future__ import annotations

import tomllib

from gateway.rollout.plan import from_json
from trainer.demo.rollout import plan_text


def test_the_plan_is_a_valid_one_with_and_without_a_shadow():
    whole = from_json(tomllib.loads(plan_text(sample=0.5, objective=2.0)))
    assert whole.shadow is not None and whole.shadow.sample == 0.5
    assert next(m for m in whole.metrics if m.name == "slow_duration").objective == 2.0
    assert [m.name for m in whole.metrics if m.role == "primary"] == ["satisfaction"]
    assert from_json(tomllib.loads(plan_text(sample=0.0))).shadow is None
