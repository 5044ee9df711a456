"""`understudy slo`: rules, the table of what alerts can see, OpenSLO in and out."""

from __future__ import annotations

import json
import tomllib

import pytest
import yaml
from typer.testing import CliRunner

from gateway.cli import app
from gateway.cli_init import commented_defaults, default_slos
from tests.support.commands import failed, good
from tests.support.promtool import check_rules


def run(*arguments):
    return CliRunner().invoke(app, ["slo", *map(str, arguments)])


@pytest.fixture
def config(tmp_path):
    """The objectives of `understudy init`, in force."""
    (path := tmp_path / "understudy.toml").write_text(default_slos())
    return path


@pytest.mark.needs("prometheus")
def test_the_rules_of_the_examples_pass_promtool(config, tmp_path):
    assert "SUCCESS" in check_rules(tmp_path, good(run("rules", "-c", config)))
    assert run("rules", "-c", config).stdout == run("rules", "-c", config).stdout


def test_only_rules_are_on_standard_output(config):
    done = run("rules", "-c", config)
    groups = yaml.safe_load(done.stdout)["groups"]
    assert len(groups) == 3 * len(tomllib.loads(default_slos())["slo"])
    assert done.stderr == "reward: nothing is graded until there is a [[rewards.grader]]\n"


def test_a_rehearsal(config):
    assert "[5s]" in good(run("rules", "-c", config, "--scale", 60))
    assert run("rules", "-c", config, "--scale", 0.5).exit_code == 2


def test_the_list_says_what_fires_and_how_soon(config):
    lines = good(run("list", "-c", config)).splitlines()
    assert lines[0].split()[:4] == ["SLO", "SEVERITY", "WINDOWS", "FACTOR"]
    assert lines[1].split() == ["support-availability", "99.5%", "page", "1h", "and", "5m", "14.4", "7.2%", "4m19s", "8m38s", "139"]
    assert any("never" in line for line in lines)      # half of the first tokens slow: below what 14.4 times needs
    listed = json.loads(run("list", "-c", config, "--json").stdout)
    by_id = {slo["id"]: slo for slo in listed}
    assert by_id["support-satisfaction"]["scaled"] and not by_id["support-availability"]["scaled"]
    first = by_id["support-first-token"]["alerts"][0]
    assert first["seconds_when_half_are_bad"] is None and first["fires_above"] == pytest.approx(0.72)


def test_what_is_left_to_the_detectors_is_said(tmp_path):
    (path := tmp_path / "u.toml").write_text(
        '[[slo]]\nname = "happy"\nroute = "r"\nsli = "satisfaction"\nobjective = 0.8\nunreachable = "detectors"\n'
    )
    done = run("list", "-c", path)
    assert "r-happy: an objective of 0.8 can burn its budget at most 5 times" in done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_openslo_in_and_out(config, tmp_path):
    (file := tmp_path / "slo.yml").write_text(good(run("openslo", "-c", config)))
    alone = {slo["id"] for slo in json.loads(good(run("list", "--openslo", file, "--json")))}
    assert alone == {slo["id"] for slo in json.loads(run("list", "-c", config, "--json").stdout)}
    assert "two SLOs are called support-availability" in failed(run("rules", "-c", config, "--openslo", file))
    policy = "---\napiVersion: openslo/v1\nkind: AlertPolicy\nmetadata: {name: p}\n"
    file.write_text(file.read_text() + policy)
    assert "AlertPolicy p is not used" in run("rules", "--openslo", file).stderr


def test_without_objectives_it_says_how_to_get_some(tmp_path):
    (path := tmp_path / "u.toml").write_text(commented_defaults())
    for command in ("rules", "list", "openslo"):
        assert "there is no [[slo]]: `understudy init`" in failed(run(command, "-c", path))
