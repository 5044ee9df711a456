"""A real Prometheus and a real Alertmanager, from the files of deploy/, take a bad version back by themselves.

`pytest -s` prints how long that took, and how long the gateway takes by its own statistics. docs/slo.md says what the
windows of production make of it: here an hour passes in twelve seconds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import yaml
from typer.testing import CliRunner

from adapters.rollouts import Phase
from gateway.cli import app
from gateway.cli_init import default_slos
from gateway.config import Settings
from gateway.control_plane.app import MAX_BODY
from gateway.rollout.incident import incident_path
from monitors.burnrate import alerting
from monitors.rules import render
from tests.support.alerting import Plant, running_plant
from tests.support.prometheus import PROMETHEUS_CONFIG, Prometheus, start_alertmanager, start_prometheus
from tests.support.tree import ROOT

ALERTMANAGER_CONFIG = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
SCALE = 300              # 1h → 12s, 5m → 1s
HEALTHY = 27.0           # seconds before the breach: as much of the six hours (72 s) as the slower page needs to stay slower
OBJECTIVE = 0.99
SLO = f'[[slo]]\nname = "up"\nroute = "r"\nsli = "availability"\nobjective = {OBJECTIVE}\naction = "rollback"\n'
UNSEEN = [{"name": "truncated", "role": "primary", "margin": 0.2}]      # a plan that does not look at errors
FIRING = 'ALERTS{alertname="SloBurnsTooFast", alertstate="firing"}'


def rules(folder: Path) -> Path:
    """As an operator makes them."""
    (config := folder / "slo.toml").write_text(SLO)
    done = CliRunner().invoke(app, ["slo", "rules", "-c", str(config), "--scale", str(SCALE)])
    assert done.exit_code == 0, done.output
    (file := folder / "slo_rules.yml").write_text(done.stdout)
    return file


@pytest.mark.slow
@pytest.mark.needs("prometheus", "alertmanager")
def test_an_alert_rolls_a_bad_version_back(tmp_path, capsys):
    with running_plant(tmp_path) as plant:
        targets = {"understudy-gateway": [f"127.0.0.1:{plant.gateway.metrics_port}"], "understudy-control": [plant.control]}
        webhook = f"http://{plant.control}/api/v1/alerts"
        with contextlib.ExitStack() as telling, contextlib.ExitStack() as stack:
            start = start_alertmanager(tmp_path / "a", ALERTMANAGER_CONFIG, webhook, plant.alerts_token)
            told = [telling.enter_context(start).address]
            prometheus = stack.enter_context(
                start_prometheus(tmp_path / "p", PROMETHEUS_CONFIG, targets, [rules(tmp_path)], told, "250ms")
            )
            by_alert = breach(plant, prometheus, plant.world.push(seed=2), HEALTHY, metric=UNSEEN)
            assert plant.rollout.reason.startswith("alert SloBurnsTooFast: SLO up of r: ")
            last = plant.world.rollouts.events(plant.rollout.id)[-1]
            assert (last.actor, last.numbers["cause"]) == ("alertmanager", "alert")
            taken = 'understudy_rollbacks_total{route="r"} > 0'
            plant.wait(lambda: reasons(prometheus, taken) == ["alert"], "it is not counted as an alert's")
            report = incident_path(plant.gateway.data_dir / "incidents", plant.rollout)
            plant.wait(report.exists, "there is no incident report")
            assert "SloBurnsTooFast" in report.read_text()
            # Which of the two is quicker depends on the machine: nobody tells the controller this time.
            by_itself = breach(plant, prometheus, plant.world.push(seed=3), 1.0, then=telling.close)
            assert plant.rollout.id == 2 and "alert" not in plant.rollout.reason, plant.rollout.reason
            assert plant.world.rollouts.get(1).phase is Phase.ROLLED_BACK
    with capsys.disabled():
        print(
            f"\nhalf of the requests fail; seconds from the breach to the rollback: through Prometheus and Alertmanager "
            f"{by_alert.back:.2f} (the alert fired after {by_alert.fired:.2f}; expected of 1h and 5m, {SCALE} times shorter: "
            f"{alerting(OBJECTIVE, '30d').burns[0].seconds_to_fire(0.5) / SCALE:.2f}), by the gateway itself {by_itself.back:.2f}"
        )


@pytest.mark.needs("alertmanager")
@pytest.mark.parametrize(("action", "receivers"), [
    ("rollback", "understudy,people"), ("page", "people"), ("ticket", "tickets"), ("", "people"),
])  # fmt: skip
def test_who_hears_of_what(action, receivers):
    """The controller first, then people; what asks for nothing known reaches people too."""
    command = ["amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}", f"understudy_action={action}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, receivers), done.stderr


def test_a_webhook_fits_into_what_the_api_takes():
    """max_alerts of the largest alerts there are (Prometheus' link repeats the query, escaped) are below the limit."""
    (hook,) = [hook for one in yaml.safe_load(ALERTMANAGER_CONFIG.read_text())["receivers"] for hook in one.get("webhook_configs", ())]
    groups = yaml.safe_load(render([one.slo() for one in Settings.model_validate(tomllib.loads(default_slos())).slo]))["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    largest = max(len(quote_plus(rule["expr"])) + len(json.dumps(rule["labels"] | rule["annotations"])) for rule in alerts)
    assert hook["max_alerts"] * (largest + 1000) < MAX_BODY


@dataclass(frozen=True)
class Times:
    """Seconds from the first failure: until the alert fired (inf: it did not), until stable served everybody."""

    fired: float
    back: float


def reasons(prometheus: Prometheus, query: str) -> list[str]:
    return [series["metric"]["reason"] for series in prometheus.query(query)]


def breach(
    plant: Plant, prometheus: Prometheus, candidate: str, healthy: float, then: Callable[[], None] = lambda: None,
    **plan: object,
) -> Times:
    """A rollout, healthy for a while; then its candidate fails every time."""
    plant.begin(candidate, **plan)
    time.sleep(healthy)
    if "metric" in plan:
        assert prometheus.query(FIRING) == []
        (errors,) = prometheus.until('slo:sli_error:ratio_rate12s{sloth_id="r-up"}')
        assert float(errors["value"][1]) == 0
    assert plant.rollout.open
    then()
    plant.engine.misbehave.failing = {candidate}
    broke = time.time()
    back = plant.wait(lambda: plant.rollout.phase is Phase.ROLLED_BACK, "it is not taken back")
    plant.wait(lambda: time.time() - max(at for at, model in plant.engine.chats if model == candidate) > 1.0, "still asked")
    fired = prometheus.range(FIRING, broke, back + 1.0, 0.05)
    first = min((float(series["values"][0][0]) for series in fired), default=inf)
    return Times(first - broke, back - broke)
