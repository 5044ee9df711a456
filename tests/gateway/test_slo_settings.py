"""`[[slo]]` in understudy.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.errors import ConfigError
from gateway.config import load_settings

BASE = {"name": "one", "route": "support", "sli": "availability", "objective": 0.99}


def load(tmp_path: Path, **slo):
    lines = [f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in slo.items()]
    (file := tmp_path / "understudy.toml").write_text("[[slo]]\n" + "\n".join(lines).replace("'", '"'))
    return load_settings(file).slo[0]


def test_an_objective_becomes_what_the_rules_are_made_of(tmp_path):
    slo = load(tmp_path, **BASE, action="rollback", window="7d", unreachable="scale").slo()
    assert (slo.id, slo.route, slo.period, slo.action.value, slo.no_data) == ("support-one", "support", "7d", "rollback", "1h")
    everywhere = load(tmp_path, **BASE | {"route": ""}).slo()
    assert everywhere.id == "understudy-one" and everywhere.route == ""


@pytest.mark.parametrize(("changes", "no_data"), [
    ({}, "1h"),
    ({"sli": "satisfaction"}, "1d"),
    ({"sli": "divergence"}, "1d"),
    ({"arm": "candidate"}, "never"),
    ({"arm": "candidate", "no_data": "6h"}, "6h"),
])  # fmt: skip
def test_silence_is_a_ticket_after_a_time_that_fits(tmp_path, changes, no_data):
    assert load(tmp_path, **BASE | changes).slo().no_data == no_data


def test_own_queries(tmp_path):
    queries = {"total": "rate(all_total[{{.window}}])", "good": "rate(good_total[{{.window}}])"}
    slo = load(tmp_path, **BASE | {"sli": "custom"}, **queries).slo()
    assert slo.sli == "custom" and "good_total" in slo.indicator.bad


@pytest.mark.parametrize(("changes", "message"), [
    ({"objective": 99.5}, "a share below 1, such as 0.999; got 99.5"),
    ({"objective": 0.8}, 'could never fire: choose an objective above 93.06%, or unreachable = "scale"'),
    ({"sli": "latency"}, "sli latency needs threshold = seconds: one of 0.01"),
    ({"sli": "latency", "threshold": 3.0}, "threshold 3 is between two buckets of understudy_request_duration_seconds"),
    ({"sli": "latencies"}, "slo.0.sli: Input should be 'availability'"),
    ({"threshhold": 2.0}, "unknown key 'slo.0.threshhold'; the nearest known one is 'threshold'"),
    ({"route": "", "action": "rollback"}, "needs the route that is to be rolled back"),
    ({"name": "My SLO"}, "SLO name 'My SLO'"),
    ({"route": "My route"}, "route 'My route': lower-case letters"),
    ({"sli": "custom", "total": "rate(x[{{.window}}]", "good": "y"}, "has a ( that is never closed"),
    ({"window": "90d"}, "slo.0.window: Input should be '30d', '28d' or '7d'"),
    ({"good": "x"}, 'good, bad and total are for sli = "custom"'),
    ({"sli": "custom"}, "needs total, and either good or bad"),
    ({"sli": "custom", "total": "x", "good": "y", "grader": "z"}, "say it in the queries"),
    ({"sli": "unsafe_rate", "arm": "candidate"}, "understudy_screening_total has no label arm"),
    ({"events_per_hour": -1.0}, "slo.0.events_per_hour"),
])  # fmt: skip
def test_what_makes_no_sense_is_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, **BASE | changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)
