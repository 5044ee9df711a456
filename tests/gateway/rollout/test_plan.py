"""Plans: the default, the file, and one line for each thing that is wrong with one."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.rollout import plan as plans
from gateway.rollout.plan import (
    Plan,
    ShadowPlan,
    Step,
    default_plan,
    from_json,
    load_plan,
    parse_percent,
    to_json,
)
from monitors.analysis.spec import KNOWN, JudgeSpec, MetricSpec

SMALL = """
name = "small"
[[step]]
weight = "10%"
min_units = 20
min_duration = "2s"
max_duration = "30s"
[[step]]
weight = "50%"
min_duration = "2s"
max_duration = "30s"
advance = "evidence"
[[metric]]
name = "error"
role = "primary"
"""


def loaded(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return load_plan(path)


def test_the_default_plan():
    plan = default_plan()
    assert [step.weight for step in plan.steps] == ["1%", "5%", "25%", "50%"]
    assert [step.advance for step in plan.steps] == ["no_harm"] * 3 + ["evidence"]
    assert plan.shadow is not None and plan.shadow.min_pairs == 200
    roles = {metric.name: metric.role for metric in plan.metrics}
    assert roles["satisfaction"] == "primary" and roles["reward"] == "guardrail" and roles["tokens"] == "exploratory"
    margins = {metric.name: (metric.margin, metric.margin_unit) for metric in plan.metrics}
    assert margins["satisfaction"] == (0.02, "absolute") and margins["reward"] == (0.05, "sd")
    assert margins["guard"] == margins["slow_ttft"] == (1.25, "ratio")
    assert plan.sources == {"responses", "feedback", "graders", "screening"}
    assert (plan.alpha, plan.harm_alpha, plan.breaker, plan.holdout_share) == (0.05, 0.001, 5, 0.0)


@pytest.mark.parametrize(
    ("sources", "primary"),
    [
        (("responses", "feedback"), "satisfaction"),
        (("responses", "graders", "screening"), "reward"),
        (("responses",), "error"),
    ],
)
def test_the_default_plan_without_what_is_not_configured(sources: tuple[str, ...], primary: str):
    plan = default_plan(sources)
    assert plan.sources <= set(sources)
    assert [metric.name for metric in plan.metrics if metric.role == "primary"] == [primary]


def test_a_file(tmp_path: Path):
    plan = loaded(tmp_path, SMALL)
    assert [step.share for step in plan.steps] == [0.1, 0.5]
    first, last = plan.judge_spec(0), plan.judge_spec(1)
    assert first == JudgeSpec(
        plan.metrics, min_units=20, min_duration=2.0, max_duration=30.0, advance="no_harm", tuning_units=5000, phases=2
    )
    assert last.advance == "evidence" and last.min_units == 100
    with pytest.raises(ConfigError, match="no shadow phase"):
        plan.shadow_spec()


def test_the_shadow_and_its_rules(tmp_path: Path):
    text = SMALL + '[shadow]\nsample = 1.0\nmin_pairs = 7\nmin_duration = "1s"\n[[tester]]\nunit = "alice"\n'
    plan = loaded(tmp_path, text)
    spec = plan.shadow_spec()
    assert spec.shadow and spec.min_pairs == 7 and spec.min_duration == 1.0
    assert spec.phases == plan.judge_spec(0).phases == 3
    assert (plan.testers[0].unit, plan.testers[0].owner) == ("alice", "")


def test_stored_and_read_again(tmp_path: Path):
    for plan in (default_plan(), loaded(tmp_path, SMALL)):
        assert from_json(json.loads(json.dumps(to_json(plan)))) == plan


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"50%"', '"5%"'), "step 2: weight 5% must be above the one before it (0.1)"),
        (('"50%"', '"100%"'), "step 2: 100% leaves nothing to compare with"),
        (('"50%"', '"50"'), "'50' is not a percentage: write a number and a percent sign, such as '5%'"),
        (('"50%"', '"500%"'), "more than 100%"),
        (('"50%"', "50"), "step.1.weight"),
        (('name = "small"', 'holdout = "60%"'), "weight 50% and the holdout 60% are more than 100%"),
        (('max_duration = "30s"', 'max_duration = "1s"'), "step 1: max_duration 1s must be longer than min_duration"),
        (('"30s"', '"30 seconds"'), "is not a duration"),
        (('advance = "evidence"', ""), 'the last step needs advance = "evidence"'),
        (('role = "primary"', ""), 'no metric has role = "primary"'),
        (('name = "error"', 'name = "eror"'), "unknown metric 'eror'; the nearest known one is 'error'"),
        (('role = "primary"', 'role = "primary"\nmargn = 1'), "unknown key 'metric.0.margn'; the nearest known one"),
        (('name = "small"', "alfa = 0.05"), "unknown key 'alfa'; the nearest known one is 'alpha'"),
        (('name = "small"', "alpha = 0.9"), "alpha"),
        (('name = "small"', "alpha = nan"), "alpha"),
        (('name = "small"', "alpha = 0.001\nharm_alpha = 0.01"), "harm_alpha 0.01 must be below alpha 0.001"),
        (('name = "small"', "power = 1.0"), "power"),
        (("min_units = 20", "min_units = 0"), "min_units"),
        (("min_units = 20", "min_units = 20\nhorizon = 10"), "step 1: horizon 10 is below min_units 20"),
        (('role = "primary"', 'role = "primary"\n[[metric]]\nname = "error"'), "metric 'error' is listed twice"),
        (('role = "primary"', 'role = "primary"\nmargin = 3'), "tolerates everything"),
        (('role = "primary"', 'role = "primary"\n[shadow]\nsample = 0.0'), "shadow.sample"),
        (('role = "primary"', 'role = "primary"\n[shadow]\nmax_duration = "1s"'), "shadow: max_duration 1s must be"),
        (('name = "small"', "name = "), "is not valid TOML"),
    ],
)
def test_an_invalid_plan_is_refused_with_the_reason(tmp_path: Path, change: tuple[str, str], words: str):
    assert change[0] in SMALL
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, SMALL.replace(*change, 1))
    assert words in str(refused.value) and str(refused.value).startswith("plan ")
    assert "\n" not in str(refused.value)


def test_a_plan_needs_steps_and_metrics(tmp_path: Path):
    with pytest.raises(ConfigError, match="step: Field required"):
        loaded(tmp_path, '[[metric]]\nname = "error"\n')
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_plan(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_plan(tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match="plan"):
        from_json({"step": 3})
    with pytest.raises(ConfigError, match=r"^plan: Input should be a valid dictionary"):
        from_json([])  # type: ignore[arg-type]  # what an API client may send


def test_the_shipped_file_names_only_what_exists():
    path = Path(__file__).parents[3] / "gateway" / "rollout" / "default_plan.toml"
    assert set(tomllib.loads(path.read_text())) <= {field.alias or name for name, field in Plan.model_fields.items()}


def test_every_key_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")
    for model in (Plan, ShadowPlan, Step, plans.TesterSpec, MetricSpec):
        for name, field in model.model_fields.items():
            assert re.search(rf"`\[*{field.alias or name}\b", page), f"docs/statistics.md does not explain {name}"
    assert [name for name in KNOWN if f"`{name}`" not in page] == []


def test_the_documented_plan_is_one(tmp_path: Path):
    page = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")
    plan = loaded(tmp_path, page.split("```toml\n")[1].split("```")[0])
    assert plan.name == "careful" and len(plan.steps) == 2


@pytest.mark.parametrize("text", ["5", "5 percent", "-5%", "", "%", "nan%", None, 5])
def test_a_percentage_has_its_sign(text: object):
    with pytest.raises(ValueError, match="percent"):
        parse_percent(text)  # type: ignore[arg-type]  # what JSON may bring


def test_percentages():
    assert (parse_percent("0%"), parse_percent(" 2.5 % "), parse_percent("100%")) == (0.0, 0.025, 1.0)
