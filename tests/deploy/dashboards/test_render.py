"""grafana/: what the code makes, as Grafana's schema wants it, and provisioned by files."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import yaml

from deploy.dashboards import board as board_module
from deploy.dashboards import common
from deploy.dashboards.__main__ import FOLDER, boards
from deploy.dashboards.board import PROMETHEUS, Board
from deploy.dashboards.render import EXTRAS_OF_MARKS, to_json
from tests.support.grafana_schema import UNITS, problems

BOARDS = boards()
GRAFANA = FOLDER.parent


def written(name: str) -> dict:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def without_extras(data: dict) -> dict:
    """Without what an annotation's data source reads; the schema leaves that to the data source."""
    data = copy.deepcopy(data)
    for mark in data["annotations"].get("list", []):
        for name in EXTRAS_OF_MARKS:
            mark.pop(name)
    return data


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_files_are_what_the_code_makes(name):
    assert (FOLDER / name).read_text(encoding="utf-8") == to_json(BOARDS[name]), "run `make docs`"


def test_no_other_files():
    assert {path.name for path in FOLDER.iterdir()} == set(BOARDS)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_grafanas_schema_allows_them(name):
    assert problems(without_extras(written(name))) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(refresh=5), "refresh"),
        (lambda d: d.update(colour="red"), "colour is not in the schema"),
        (lambda d: d["panels"][1]["gridPos"].update(w="8"), "'8' is no int"),
        (lambda d: d["panels"][1]["targets"][0].update(query="up"), "query is not in the schema"),
        (lambda d: d["panels"][1]["options"].update(graphMode="none at all"), "BigValueGraphMode"),
        (lambda d: d["panels"][1]["fieldConfig"]["defaults"].update(units="s"), "units is not in the schema"),
        (lambda d: d["panels"][8]["fieldConfig"]["defaults"]["custom"].update(lineWidth="1"), "line_width"),
        (lambda d: d["templating"]["list"][1].update(type="guess"), "VariableType"),
        (lambda d: d["annotations"]["list"][0].update(epxr=""), "epxr is not in the schema"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_schema_forbids_is_noticed(change, problem):
    data = without_extras(written("serving.json"))
    change(data)
    assert any(problem in found for found in problems(data)), problems(data)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_panels_say_what_they_show_and_do_not_overlap(name):
    panels = written(name)["panels"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                      range(place["y"], place["y"] + place["h"])))  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"] and panel["description"].endswith(".") and panel["targets"]
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_no_data_source_is_named(name):
    def sources(value):
        if isinstance(value, dict):
            if "datasource" in value and value["datasource"] is not None:
                yield value["datasource"]
            for inner in value.values():
                yield from sources(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from sources(inner)

    found = list(sources(written(name)))
    assert found and all(source == {"type": "prometheus", "uid": PROMETHEUS} for source in found)


def test_uids_are_stable_and_distinct():
    """Links and provisioned folders rely on them: a change here breaks somebody's bookmarks."""
    assert {name: board.uid for name, board in BOARDS.items()} == {
        "serving.json": "understudy-serving", "rollout.json": "understudy-rollout",
        "quality.json": "understudy-quality", "safety.json": "understudy-safety", "slo.json": "understudy-slo",
        "training.json": "understudy-training",
    }  # fmt: skip


def test_rollouts_are_marked_on_every_dashboard_of_a_route():
    for name, board in BOARDS.items():
        if common.ROUTE in board.variables:
            assert [mark["name"] for mark in written(name)["annotations"]["list"]] == ["Rollouts", "Rollbacks"]


def test_provisioning_finds_the_files_and_the_source():
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/understudy.yml").read_text())["providers"]
    assert provider["type"] == "file" and provider["options"]["path"].endswith("/understudy")
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/understudy.yml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["jsonData"]["timeInterval"] == "15s"


def test_helpers_of_queries():
    metric = board_module.Metric("x_seconds", "histogram", "A test's.", ("route",), (1.0,))
    assert board_module.quantile(0.5, metric, "route", "a", "5m") == (
        "histogram_quantile(0.5, sum by (le, route) (rate(understudy_x_seconds_bucket{a}[5m])))"
    )
    assert board_module.mean(metric, "", "", "5m") == (
        "sum (rate(understudy_x_seconds_sum[5m])) / sum (rate(understudy_x_seconds_count[5m]))"
    )
    assert isinstance(BOARDS["slo.json"], Board)
