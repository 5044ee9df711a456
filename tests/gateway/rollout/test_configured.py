from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from gateway.config import Settings, load_settings
from gateway.rollout.configured import plan_of, sources

PLAN = """
name = "mine"
[[step]]
weight = "10%"
advance = "evidence"
[[metric]]
name = "error"
role = "primary"
"""


def names(plan) -> set[str]:
    return {metric.name for metric in plan.metrics}


def test_the_shipped_plan_asks_only_for_what_there_is():
    plan = plan_of(Settings())
    assert "satisfaction" in names(plan) and not {"reward", "guard"} & names(plan)
    unrated = plan_of(Settings(), rated=False)
    assert not {"satisfaction", "thumbs_down"} & names(unrated)
    assert [m.name for m in unrated.metrics if m.role == "primary"] == ["error"]
    graded = Settings(rewards={"url": "http://127.0.0.1:9"})
    assert "graders" in sources(graded) and "reward" in names(plan_of(graded))


def test_a_plan_file_beside_the_configuration(tmp_path):
    (tmp_path / "canary.toml").write_text(PLAN)
    config = tmp_path / "understudy.toml"
    config.write_text('data_dir = "data"\n[rollout]\nplan = "canary.toml"\n')
    assert plan_of(load_settings(config)).name == "mine"
    (tmp_path / "other.toml").write_text(PLAN.replace("mine", "other"))
    assert plan_of(load_settings(config), tmp_path / "other.toml").name == "other"
    with pytest.raises(ConfigError, match="cannot be read"):
        plan_of(load_settings(config), tmp_path / "none.toml")
