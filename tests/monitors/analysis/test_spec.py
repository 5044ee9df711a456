"""Metrics as plans name them: defaults by name, and one line for what makes no sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from monitors.analysis.spec import KNOWN, MetricSpec, known_defaults


def test_defaults_come_with_the_name():
    slow = MetricSpec(name="slow_ttft")
    assert (slow.kind, slow.direction, slow.margin, slow.margin_unit) == ("event", "decrease", 1.25, "ratio")
    assert (slow.null_risk, slow.objective, slow.warmup) == (1.25, 2.0, 60.0)
    assert MetricSpec(name="slow_ttft", objective=0.5, margin=1.5).margin == 1.5
    satisfaction = MetricSpec(name="satisfaction")
    assert (satisfaction.margin, satisfaction.direction, satisfaction.source) == (0.02, "increase", "feedback")
    assert MetricSpec(name="reward.exact").margin == 0.05
    assert MetricSpec(name="text.duplicate_ngram_ratio").source == "texts"
    assert all(MetricSpec(name=name).name == name for name in KNOWN)


def test_exploratory_metrics_decide_nothing():
    assert MetricSpec(name="error").gating and not MetricSpec(name="error", role="exploratory").gating


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "satisfactoin"}, "the nearest known one is 'satisfaction'"),
        ({"name": "reward."}, "unknown metric 'reward.'"),
        ({"name": "error", "margin": 0}, "greater than 0"),
        ({"name": "error", "margin": float("nan")}, "margin"),
        ({"name": "error", "margin": float("inf"), "margin_unit": "sd"}, "finite"),
        ({"name": "error", "margin": 1.5}, "tolerates everything"),
        ({"name": "slow_ttft", "margin": 0.9}, "above 1"),
        ({"name": "slow_ttft", "objective": 0}, "needs objective"),
        ({"name": "reward", "margin": 1.2, "margin_unit": "ratio"}, "should decrease"),
        ({"name": "error", "direction": "increase"}, "should decrease"),
        ({"name": "error", "role": "main"}, "role"),
        ({"name": "error", "null_risk": 0.5}, "greater than or equal to 1"),
        ({"role": "primary"}, "name"),
        ({"name": "error", "margn": 0.1}, "margn"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict, words: str):
    with pytest.raises(ValidationError, match=r".") as refused:
        MetricSpec.model_validate(values)
    assert words in str(refused.value)


def test_unknown_metrics_name_the_nearest():
    with pytest.raises(ValueError, match="nearest known one is 'reward'"):
        known_defaults("reward.")
