"""Every query of the dashboards, and every metric, against a real Prometheus that watches a real installation.

One installation for all: see tests/support/observed.py. An empty answer fails, and so does the name of a metric that
neither the conventions nor the recording rules know.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections import Counter

import httpx
import pytest
import yaml

from deploy.dashboards import pictures
from deploy.dashboards.__main__ import boards
from deploy.dashboards.board import Board, Query
from deploy.dashboards.board import filled as fill_in
from deploy.dashboards.objectives import recorded
from monitors.conventions import METRICS, PLANNED
from tests.support.observed import Observed, observed

pytestmark = [pytest.mark.needs("prometheus"), pytest.mark.slow]

BOARDS = boards()
# What Grafana puts in: everything is chosen; a rate over a few scrapes of this test's interval.
CHOSEN = {"window": "1m", "__rate_interval": "10s", "__range": "5m", "__interval": "1s"}
SELECTED = re.compile(r"[a-zA-Z_:][\w:]*(?=\s*[{\[])")
OURS = re.compile(r"\b(?:understudy_\w+|slo:[\w:]+|sloth_slo_info)")
MADE_BY_PROMETHEUS = {"ALERTS", "up"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with observed(tmp_path_factory.mktemp("observed")) as made:
        yield made


def known(site: Observed) -> set[str]:
    """Names of series: the conventions' and those that the rules record."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    names = {m.full_name + suffix for m in METRICS for suffix in suffixes.get(m.kind, ("",))}
    rules = yaml.safe_load((site.folder / "slo.yml").read_text())
    return names | MADE_BY_PROMETHEUS | {rule["record"] for group in rules["groups"] for rule in group["rules"]
                                         if "record" in rule}  # fmt: skip


def names_in(expr: str) -> set[str]:
    """The metrics that a query reads; what stands in quotes or in `by (…)` is none."""
    bare = re.sub(r"\b(?:by|on|without|unless on) \([^)]*\)", "", re.sub(r'"[^"]*"', '""', expr))
    return set(SELECTED.findall(bare)) | set(OURS.findall(bare))


def filled(expr: str, board: Board) -> str:
    """A query with the dashboard's variables filled in: all of them."""
    done = fill_in(expr, board, CHOSEN)
    assert "$" not in done, done
    return done


def points(site: Observed, expr: str) -> int:
    """How many numbers a query has had since the beginning; those that are none (0/0) do not count."""
    series = site.prometheus.range(expr, site.began, time.time(), 1.0)
    return sum(math.isfinite(float(value)) for one in series for _, value in one["values"])


def problems(site: Observed, board: Board, where: str, queries: list[Query]) -> list[str]:
    """Of one panel, or of one mark."""
    found = []
    for query in queries:
        unknown = names_in(query.expr) - known(site)
        if unknown:
            found.append(f"{where}: nobody exports {sorted(unknown)}")
        elif not points(site, filled(query.expr, board)):
            found.append(f"{where}: empty: {query.expr}")
    return found


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_panel_and_mark_has_an_answer(site, name):
    board = BOARDS[name]
    panels = [(panel.title, list(panel.queries)) for row in board.rows for panel in row.panels]
    marks = [(mark.name, [Query(mark.expr)]) for mark in board.marks]
    assert [p for where, queries in panels + marks for p in problems(site, board, where, queries)] == []


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_variable_has_values(site, name):
    board = BOARDS[name]
    for variable in board.variables:
        if not variable.values:
            assert names_in(variable.of + "{") <= known(site)
            match = {"match[]": filled(variable.of, board)}
            values = site.prometheus.get(f"/api/v1/label/{variable.label}/values", **match)
            assert [value for value in values if value], variable.name


def test_wrong_queries_are_noticed(site):
    board = BOARDS["serving.json"]
    assert names_in('sum by (route) (rate(understudy_a_total{x="b{c"}[5m])) / d + slo:e:ratio') == {
        "understudy_a_total", "slo:e:ratio",
    }  # fmt: skip
    assert names_in('nonsense{a="b"} or more[5m]') == {"nonsense", "more"}
    (said,) = problems(site, board, "a panel", [Query("sum(rate(understudy_requets_total[5m]))")])
    assert said == "a panel: nobody exports ['understudy_requets_total']"
    (said,) = problems(site, board, "a panel", [Query('understudy_requests_total{route="nobody\'s"}')])
    assert said.startswith("a panel: empty")
    assert problems(site, board, "a panel", [Query("understudy_requests_total")]) == []


def test_every_metric_is_exported(site):
    """By one process or another, after a real run; with the labels of the conventions and no others."""
    series = site.prometheus.get("/api/v1/series", **{"match[]": '{__name__=~"understudy_.*"}'})
    found: dict[str, set[frozenset[str]]] = {}
    for labels in series:
        found.setdefault(labels["__name__"], set()).add(frozenset(labels) - {"__name__", "job", "instance", "le"})
    for metric in METRICS:
        name = metric.full_name + ("_count" if metric.kind == "histogram" else "")
        assert name in found, f"nobody exports {metric.full_name}"
        assert metric.since != PLANNED
        assert frozenset().union(*found.get(name, ())) <= set(metric.labels)  # Prometheus drops empty ones
    assert set(found) <= known(site)


def test_nothing_is_counted_twice(site):
    """Although gateway and controller each show the values of both; builds are meant to be counted by process."""
    series = site.prometheus.get("/api/v1/series", **{"match[]": '{__name__=~"understudy_.*"}'})
    seen = Counter(
        tuple(sorted((k, v) for k, v in labels.items() if k not in ("job", "instance")))
        for labels in series if labels["__name__"] != "understudy_build_info"
    )  # fmt: skip
    assert [labels for labels, count in seen.items() if count > 1] == []


def test_prometheus_own_linter_has_nothing_to_say_to_any_process(site):
    engines = site.targets()["vllm"]
    for job, (address, *_) in site.targets().items():
        if address in engines:
            continue
        text = httpx.get(f"http://{address}/metrics", timeout=30).text
        assert "understudy_" in text, job
        linted = subprocess.run(
            ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=60, check=False
        )
        assert (job, linted.returncode, linted.stdout, linted.stderr) == (job, 0, "", "")
    site.seen()  # each process answers in time; on a busy machine not at every scrape


@pytest.mark.long
def test_pictures_are_drawn(site, tmp_path, capsys):
    """Of every kind of panel: they are in the rollout's and the quality's dashboards."""
    times = ["--from", str(site.began), "--to", str(time.time()), "--window", "10"]
    names = ["rollout", "quality", "slo"]
    assert pictures.main(["--prometheus", site.prometheus.url, *times, "--out", str(tmp_path), *names]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    for name in names:
        picture = (tmp_path / f"dashboards-{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    with pytest.raises(SystemExit, match="Prometheus refuses"):
        pictures.Source(site.prometheus.url, site.began, time.time(), 10.0).lines("sum by", BOARDS["rollout.json"])
    with pytest.raises(SystemExit, match="does not answer"):
        pictures.main(["--prometheus", "http://127.0.0.1:9", *times, "--out", str(tmp_path), "training"])


def test_objectives_come_from_the_rules(site):
    """What the dashboard shows of an objective is what understudy.toml says."""
    series = site.prometheus.query(filled(recorded("objective:ratio"), BOARDS["slo.json"]))
    shown = {one["metric"]["sloth_slo"]: float(one["value"][1]) for one in series}
    assert shown == {"availability": pytest.approx(0.99), "satisfaction": pytest.approx(0.8)}
