"""deploy/prometheus/, read by a real Prometheus; and the fixtures that start one."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from monitors.conventions import METRICS
from tests.support.prometheus import PROMETHEUS_CONFIG, start_alertmanager, start_prometheus

RULE = "groups: [{name: g, rules: [{alert: Down, expr: up == 0, labels: {route: support}}]}]\n"
ALERTS = """
route: {receiver: hook, group_wait: 5m, routes: [{matchers: ['route="support"'], receiver: hook, group_wait: 5m}]}
receivers: [{name: hook, webhook_configs: [{url: "http://127.0.0.1:1/"}]}]
"""


@pytest.mark.needs("prometheus")
def test_promtool_accepts_the_configuration():
    checked = subprocess.run(
        ["promtool", "check", "config", PROMETHEUS_CONFIG], check=False, capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_metric_is_scraped_twice_or_never():
    """Gateway and controller show each other's values: what one job keeps, the other drops."""
    jobs = {job["job_name"]: job for job in yaml.safe_load(PROMETHEUS_CONFIG.read_text())["scrape_configs"]}
    (dropped,) = jobs["understudy-gateway"]["metric_relabel_configs"]
    (kept,) = jobs["understudy-control"]["metric_relabel_configs"]
    assert (dropped["action"], kept["action"]) == ("drop", "keep")
    assert dropped["regex"] == kept["regex"]
    controllers = {metric.full_name for metric in METRICS if re.fullmatch(kept["regex"], metric.full_name)}
    assert "understudy_requests_total" not in controllers and "understudy_rollout_phase" in controllers


@pytest.mark.needs("prometheus", "alertmanager")
def test_an_alert_goes_from_a_rule_to_the_alertmanager(tmp_path):
    (rules := tmp_path / "rules.yml").write_text(RULE)
    (alerts := tmp_path / "alerts.yml").write_text(ALERTS)
    nobody = {"understudy-gateway": ["127.0.0.1:9"]}
    with (
        start_alertmanager(tmp_path / "a", alerts, timing={"group_wait": "1s"}) as alertmanager,
        start_prometheus(tmp_path / "p", PROMETHEUS_CONFIG, nobody, [rules], [alertmanager.address]) as prometheus,
    ):
        (series,) = prometheus.until('ALERTS{alertname="Down", alertstate="firing"}')
        assert series["metric"]["route"] == "support"
        assert prometheus.unhealthy()[0].startswith("understudy-gateway: ")
        assert [alert["labels"]["alertname"] for alert in prometheus.alerts()] == ["Down"]
        written = yaml.safe_load((tmp_path / "a" / "alertmanager.yml").read_text())
        assert [written["route"]["group_wait"], written["route"]["routes"][0]["group_wait"]] == ["1s", "1s"]
    assert prometheus.process.returncode is not None and alertmanager.process.returncode is not None


@pytest.mark.needs("prometheus")
def test_what_prometheus_refuses_fails_the_test(tmp_path):
    (rules := tmp_path / "rules.yml").write_text("groups: [{name: g, rules: [{record: 'not a name', expr: up}]}]\n")
    with pytest.raises(AssertionError, match="not a name"), start_prometheus(tmp_path, PROMETHEUS_CONFIG, {}, [rules]):
        pass
    with pytest.raises(AssertionError, match="no jobs"), start_prometheus(tmp_path, PROMETHEUS_CONFIG, {"nonsense": []}):
        pass
