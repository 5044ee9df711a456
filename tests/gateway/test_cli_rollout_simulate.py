"""`understudy rollout simulate`: a table, JSON, a plot, and one line for what is wrong."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli_rollout_simulate import share, simulate_command

PLAN = """
name = "tiny"
[[step]]
weight = "50%"
min_units = 100
min_duration = "60s"
max_duration = "2h"
advance = "evidence"
[[metric]]
name = "error"
role = "primary"
"""


@pytest.fixture
def simulate(tmp_path):
    """simulate(*options) → the finished command, with a small plan."""
    app = typer.Typer()
    app.command()(simulate_command)
    (tmp_path / "plan.toml").write_text(PLAN)

    def run(*options: str, plan: str = "plan.toml"):
        base = ["--rps", "20", "--units", "2000", "--runs", "4", "--plan", str(tmp_path / plan)]
        return CliRunner().invoke(app, [*base, *options])

    return run


def test_a_table(simulate):
    done = simulate("--bad-rate", "1%", "--relative-risk", "10")
    assert done.exit_code == 0, done.output
    assert "the stated candidate (4 rollouts" in done.output and "a candidate equal to stable" in done.output
    ours = next(line for line in done.output.splitlines() if line.startswith("this plan"))
    assert "100.0%" in ours and "error 4" in ours
    assert "Flagger's example" in done.output and "Argo's example" in done.output


def test_json_and_the_plot(simulate, tmp_path):
    done = simulate("--json", "--plot", str(tmp_path / "plot.svg"), "--seed", "3")
    body = json.loads(done.stdout)
    assert body["plan"] == "tiny" and body["seed"] == 3
    assert [s["rules"] for s in body["summaries"]] == ["this plan", "Flagger's example", "Argo's example"]
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    assert json.loads(simulate("--json", "--seed", "3").stdout) == body


def test_warnings_come_first(simulate):
    done = simulate("--rps", "0.001")
    assert "warning: step 1 needs 100 units per arm" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bad-rate", "much"), "'much' is no share: write 1% or 0.01"),
        (("--relative-risk", "1000"), "must lie between 0 and 1"),
        (("--metric", "latency"), "no bad event"),
        (("--plot", "/nowhere/plot.svg"), "the plot cannot be written"),
    ],
)
def test_what_is_wrong_is_one_line(simulate, options, words):
    done = simulate(*options)
    assert done.exit_code == 1 and words in done.stderr and "Traceback" not in done.stderr


def test_a_plan_that_is_not_there(simulate):
    done = simulate(plan="none.toml")
    assert done.exit_code == 1 and "cannot be read" in done.stderr


def test_shares():
    assert (share("1%"), share("0.01"), share("-10%"), share(0.5)) == (0.01, 0.01, -0.1, 0.5)
