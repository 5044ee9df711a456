"""OpenSLO v1 in and out."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import ConfigError
from monitors.burnrate import Policy
from monitors.indicators import Scope, Sli, Source, indicator
from monitors.openslo import read_openslo
from monitors.openslo_export import to_yaml
from monitors.openslo_queries import per_second
from monitors.rules import render
from monitors.slo import Action, Events, Ratio, Slices, Slo
from tests.support.promtool import check_rules

METRIC = "{metricSource: {type: Prometheus, spec: {query: %s}}}"
GOOD = METRIC % "'sum(rate(good_total[{{.window}}]))'"
TOTAL = METRIC % "'sum(rate(all_total[{{.window}}]))'"
SLO = f"""
apiVersion: openslo/v1
kind: SLO
metadata: {{name: web, displayName: Web}}
spec:
  description: answers come
  service: shop
  indicator: {{metadata: {{name: i}}, spec: {{ratioMetric: {{counter: true, good: {GOOD}, total: {TOTAL}}}}}}}
  timeWindow: [{{duration: 4w, isRolling: true}}]
  budgetingMethod: Occurrences
  objectives: [{{displayName: most, target: 0.99}}]
"""


def read(tmp_path: Path, text: str) -> tuple[list[Slo], list[str]]:
    (file := tmp_path / "slo.yml").write_text(text)
    return read_openslo(file)


@pytest.mark.needs("prometheus")
def test_a_ratio_of_counters(tmp_path):
    (slo,), ignored = read(tmp_path, SLO)
    assert (slo.id, slo.objective, slo.period, slo.description) == ("shop-web", 0.99, "28d", "answers come")
    assert (slo.action, slo.route, ignored) == (Action.PAGE, "", [])
    assert isinstance(slo.indicator, Events) and "good_total" in slo.indicator.bad
    assert "SUCCESS" in check_rules(tmp_path, render([slo]))


def test_indicators_of_their_own_and_several_objectives(tmp_path):
    inline = SLO[SLO.index("  indicator:") : SLO.index("  timeWindow:")]
    text = SLO.replace(inline, "  indicatorRef: answered\n").replace(
        "[{displayName: most, target: 0.99}]", "[{target: 0.99}, {targetPercent: 99.9}]"
    )
    sli = f"apiVersion: openslo/v1\nkind: SLI\nmetadata: {{name: answered}}\nspec: {{ratioMetric: {{bad: {GOOD}, total: {TOTAL}}}}}\n"
    rest = "apiVersion: openslo/v1\nkind: AlertPolicy\nmetadata: {name: page}\nspec: {}\n"
    slos, ignored = read(tmp_path, f"{sli}---{text}---\n{rest}")
    assert [(slo.name, round(slo.objective, 6)) for slo in slos] == [("web-0", 0.99), ("web-1", 0.999)]
    assert slos[0].indicator == slos[1].indicator
    assert len(ignored) == 1 and ignored[0].startswith("AlertPolicy page is not used")
    with pytest.raises(ConfigError, match="no SLI of this name"):
        read(tmp_path, text)


@pytest.mark.needs("prometheus")
def test_time_slices_and_thresholds(tmp_path):
    text = SLO.replace("Occurrences", "Timeslices").replace(
        "target: 0.99", "target: 0.99, timeSliceTarget: 0.95, timeSliceWindow: 1m"
    )
    (slo,), _ = read(tmp_path, text)
    assert isinstance(slo.indicator, Slices) and slo.indicator.bad.endswith("> bool 0.05")
    assert "[1m]" in slo.indicator.bad and "{{.window}}" not in slo.indicator.bad
    assert "SUCCESS" in check_rules(tmp_path, render([slo]))
    ratio = SLO[SLO.index("ratioMetric:") : SLO.index("}\n  timeWindow")]
    threshold = SLO.replace(ratio, f"thresholdMetric: {METRIC % 'queue_length'}}}").replace(
        "target: 0.99", "target: 0.99, op: lte, value: 10"
    )
    (slo,), _ = read(tmp_path, threshold)
    assert slo.indicator == Slices("max(queue_length) > bool 10")
    (slo,), _ = read(tmp_path, threshold.replace("op: lte", "op: gt"))
    assert slo.indicator == Slices("min(queue_length) <= bool 10")
    assert "SUCCESS" in check_rules(tmp_path, render([slo]))


@pytest.mark.needs("prometheus")
def test_a_ratio_that_somebody_else_computed(tmp_path):
    ratio = SLO[SLO.index("good:") : SLO.index("}}}\n  timeWindow")]
    (slo,), _ = read(tmp_path, SLO.replace(ratio, f"rawType: success, raw: {METRIC % 'shop:good'}"))
    assert slo.indicator == Ratio("1 - (avg_over_time((shop:good)[{{.window}}:]))")
    assert "SUCCESS" in check_rules(tmp_path, render([slo]))


@pytest.mark.parametrize(("query", "counter", "rate"), [
    ("http_total", True, "rate(http_total[{{.window}}])"),
    ('sum(http_total{code=~"5..",path="/a{b}"})', True, 'rate(http_total{code=~"5..",path="/a{b}"}[{{.window}}])'),
    ('{__name__="http_total"}', True, 'rate({__name__="http_total"}[{{.window}}])'),
    ("increase(x[{{.window}}])", False, "increase(x[{{.window}}])"),
])  # fmt: skip
def test_counters_get_their_rate(query, counter, rate):
    assert per_second(query, query, "", counter=counter).total == f"sum({rate})"


@pytest.mark.parametrize(("query", "counter", "message"), [
    ("http_total", False, "has no window: write sum"),
    ("sum(a) + sum(b)", True, "has no window: write sum"),
    ("sum(rate(a[5m]))", True, r"looks at \[5m\] whatever the window"),
])  # fmt: skip
def test_queries_without_a_window_are_refused(query, counter, message):
    with pytest.raises(ConfigError, match=message):
        per_second(query, query, "", counter=counter)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("openslo/v1", "openslo/v1alpha", "apiVersion openslo/v1alpha is not read: write it as openslo/v1"),
    ("kind: SLO", "kind: Nonsense", "OpenSLO has no such kind"),
    ("isRolling: true", "isRolling: false", "only rolling windows of 30d, 28d, 7d"),
    ("duration: 4w", "duration: 1M", "timeWindow 1M: only rolling windows"),
    ("duration: 4w", "duration: 90d", "timeWindow 90d"),
    ("Occurrences", "RatioTimeslices", "RatioTimeslices is not read"),
    ("Occurrences", "Timeslices", "need timeSliceTarget and timeSliceWindow"),
    ("Occurrences", "Sometimes", "budgetingMethod"),
    ("type: Prometheus", "type: Datadog", "metricSource.type Datadog: only Prometheus is read"),
    ("query:", "request:", "spec.query is missing"),
    ("target: 0.99", "target: 99", "a share below 1"),
    ("target: 0.99", "displayNames: x", "either target or targetPercent"),
    ("[{displayName: most, target: 0.99}]", "[]", "objectives"),
    ("target: 0.99", "target: 0.99, indicatorRef: x", "composite SLOs are not read"),
    ("counter: true, ", "rawType: success, raw: {metricSource: {spec: {query: x}}}, ", "neither good, bad nor total"),
    ("service: shop", "service: My Shop", "SLO service 'My Shop'"),
    ("name: web", "names: web", "metadata.name"),
    ("displayName: Web", "annotations: {understudy/action: shout}", "annotation of understudy/ is wrong: 'shout'"),
    ("displayName: Web", "annotations: {understudy/action: rollback}", "needs the route"),
    ("{name: web, displayName: Web}", "[", "is not valid YAML"),
    ("apiVersion: openslo/v1\n", "", "document 1: apiVersion"),
])  # fmt: skip
def test_what_is_not_read_is_refused_in_one_line(tmp_path, old, new, message):
    assert old in SLO
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, SLO.replace(old, new))
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert "slo.yml" in str(refused.value)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 99), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from(["{{.window}}", "30d", "-1d", "rate(x[5m])", [None], {"name": None}, {"spec": {"query": 1}}]),
)  # fmt: skip


def places(value, path=()):
    """Every place in a document."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inside:
        yield from places(child, (*path, key))


@given(st.data())
def test_whatever_is_wrong_with_a_file_is_one_line(tmp_path_factory, data):
    body = yaml.safe_load(SLO)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([path for path in places(body) if path]))
        inner = body
        for key in path[:-1]:
            inner = inner[key]
        if isinstance(inner, dict) and data.draw(st.booleans()):
            del inner[path[-1]]
        else:
            inner[path[-1]] = data.draw(JUNK)
        if not any(places(body)) or not body:
            break
    try:
        slos, _ = read(tmp_path_factory.mktemp("slo"), yaml.safe_dump(body))
        render(slos)
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("text", ["", "---\n---\n", "just text", "[1, 2]", "a: &a [*a]", "\x00", "x: " + "[" * 3000])
def test_rubbish_is_refused_in_one_line(tmp_path, text):
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert "\n" not in str(refused.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_openslo(tmp_path / "none.yml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_openslo(tmp_path)


@pytest.mark.needs("prometheus")
def test_what_is_written_is_read_back(tmp_path):
    scope = Scope("support")
    slos = [
        Slo("up", indicator(Sli.AVAILABILITY, scope), 0.995, "support", "support", "availability", "7d", Action.ROLLBACK),
        Slo("happy", indicator(Sli.SATISFACTION, scope), 0.8, "support", policy=Policy.SCALE, no_data="1d"),
        Slo("apart", indicator(Sli.DIVERGENCE, scope, source=Source.SCORES), 0.8, policy=Policy.DETECTORS),
        Slo("tax", indicator(Sli.DIVERGENCE, scope), 0.99, "support", description="a: \"b\"", events_per_hour=2.5),
    ]
    text = to_yaml(slos)
    back, ignored = read(tmp_path, text)
    assert ignored == [] and to_yaml(slos) == text
    same = ("name", "service", "route", "sli", "objective", "period", "action", "policy", "no_data", "events_per_hour")
    for one, other in zip(slos, back, strict=True):
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert type(one.indicator) is type(other.indicator)
    assert back[2].indicator == slos[2].indicator
    assert back[0].indicator.total == slos[0].indicator.total and slos[0].indicator.bad in back[0].indicator.bad
    assert "SUCCESS" in check_rules(tmp_path, render(back))
    assert {document["apiVersion"] for document in yaml.safe_load_all(text)} == {"openslo/v1"}
