"""Names and parameters as PromQL; test_rules_firing.py says what Prometheus makes of it."""

from __future__ import annotations

import re

import pytest

from adapters.errors import ConfigError
from monitors import conventions as c
from monitors.indicators import Scope, Sli, Source, custom, indicator
from monitors.slo import Events, Ratio, Slices

ROUTE = Scope("support")
BOUNDED = {Sli.TIME_TO_FIRST_TOKEN: 2.0, Sli.LATENCY: 30.0, Sli.TIME_PER_OUTPUT_TOKEN: 0.05}


def query(sli: Sli, scope: Scope = ROUTE, **more) -> str:
    """All of an indicator's PromQL."""
    found = indicator(sli, scope, BOUNDED.get(sli), **more)
    if isinstance(found, Events):
        return f"{found.bad} {found.total}"
    return found.share if isinstance(found, Ratio) else found.bad


@pytest.mark.parametrize("sli", [sli for sli in Sli if sli is not Sli.CUSTOM])
@pytest.mark.parametrize("route", ["support", ""])
def test_only_metrics_and_labels_that_exist_are_named(sli, route):
    text = query(sli, Scope(route))
    known = {metric.full_name + suffix: metric for metric in c.METRICS for suffix in ("", "_bucket", "_count")}
    used = re.findall(r"(understudy_[a-z_]+)\{([^}]*)\}", text)
    assert used
    for name, matchers in used:
        metric = known[name]
        labels = re.findall(r'([a-z_]+)(?:=~|!~|!=|=)"', matchers)
        assert set(labels) <= {*metric.labels, *(("le",) if name.endswith("_bucket") else ())}, name
        assert ('route="support"' if route else 'route!=""') in matchers
    assert "{{.window}}" in text


def test_users_are_all_who_are_served_and_a_candidate_can_be_looked_at_alone():
    assert 'arm!~"shadow|tester|pinned"' in query(Sli.AVAILABILITY)
    assert 'arm=~"candidate|treatment"' in query(Sli.AVAILABILITY, Scope("support", candidate=True))
    assert 'endpoint="chat"' in query(Sli.LATENCY, Scope("support", endpoint="chat"))
    assert 'grader="right"' in query(Sli.REWARD, Scope("support", grader="right"))


@pytest.mark.parametrize(("sli", "scope", "threshold", "message"), [
    (Sli.UNSAFE_RATE, Scope("r", candidate=True), None, "screening_total has no label arm: leave arm out"),
    (Sli.SATISFACTION, Scope("r", endpoint="chat"), None, "has no label endpoint"),
    (Sli.LATENCY, Scope("r", grader="right"), 30.0, "has no label grader"),
    (Sli.DIVERGENCE, Scope("r", candidate=True), None, "is per version: leave arm"),
    (Sli.LATENCY, Scope("r"), None, "needs threshold = seconds: one of 0.01, 0.025"),
    (Sli.TIME_TO_FIRST_TOKEN, Scope("r"), 2.2, "threshold 2.2 is between two buckets"),
    (Sli.REWARD, Scope("r"), 0.55, "between two buckets of understudy_reward_score: 0, 0.1"),
    (Sli.AVAILABILITY, Scope("r"), 0.5, "availability takes no threshold"),
    (Sli.CUSTOM, Scope("r"), None, "written as PromQL"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused_in_one_line(sli, scope, threshold, message):
    with pytest.raises(ConfigError) as refused:
        indicator(sli, scope, threshold)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_divergence_is_calibrated_or_from_the_scores():
    assert isinstance(indicator(Sli.DIVERGENCE, Scope("r")), Slices)
    assert "> bool 0.05" in query(Sli.DIVERGENCE)
    by_scores = query(Sli.DIVERGENCE, Scope("r", grader="right"), source=Source.SCORES)
    rated, graded = by_scores.split("\n-\n")
    assert "satisfaction_score" in rated and "grader" not in rated
    assert "reward_score" in graded and 'grader="right"' in graded


def test_label_values_cannot_break_out_of_a_query():
    text = query(Sli.REWARD, Scope('a"} or vector(1)'))
    assert r'route="a\"} or vector(1)"' in text


@pytest.mark.parametrize(("total", "more", "message"), [
    ("", {"good": "rate(a[{{.window}}])"}, "needs total, and either good or bad"),
    ("rate(a[{{.window}}])", {}, "either good or bad"),
    ("rate(a[{{.window}}])", {"good": "rate(b[{{.window}}])", "bad": "rate(c[{{.window}}])"}, "either good or bad"),
    ("rate(a[{{.window}}])", {"bad": "rate(b[5m])"}, "the query 'rate(b[5m])' has no {{.window}}"),
])  # fmt: skip
def test_custom_queries_that_are_not_whole_are_refused(total, more, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        custom(total, **more)
