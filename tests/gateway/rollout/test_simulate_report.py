"""The report of a simulation, and its plot."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from gateway.rollout.simulate import Outcome
from gateway.rollout.simulate_plot import draw
from gateway.rollout.simulate_report import EQUAL, HARMFUL, PLAN, in_words, kinds, report, summarise
from gateway.rollout.simulated_traffic import Traffic
from tests.gateway.rollout.test_simulate import FAST


def test_a_summary_counts_each_ending():
    outcomes = [Outcome("rollback", seconds, 100.0, 10.0, "error", 1) for seconds in (10.0, 20.0, 30.0)]
    outcomes += [Outcome("promote", 500.0, 9.0, 0.1, "", 2), Outcome("inconclusive", 900.0, 9.0, 0.1, "time", 2)]
    found = summarise("x", "y", outcomes)
    assert (found.rolled_back, found.promoted, found.held) == pytest.approx((0.6, 0.2, 0.2))
    assert found.rollback_seconds.median == 20 and found.rollback_seconds.p95 == pytest.approx(29)
    assert found.promote_seconds.median == 500 and found.causes == {"error": 3, "time": 1}
    nothing = summarise("x", "y", outcomes[3:4])
    assert nothing.rollback_seconds.median is None


def test_the_report_covers_both_candidates_and_all_rules():
    stated = Traffic(rps=20, units=2000, relative_risk=10)
    found = report(FAST, stated, runs=3, seed=1)
    assert {(s.rules, s.candidate) for s in found.summaries} >= {(PLAN, HARMFUL), (PLAN, EQUAL)}
    assert len(found.summaries) == 6
    body = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert body["traffic"]["relative_risk"] == 10 and body["least_seconds"] == 360
    assert len(body["summaries"]) == 6 and "outcomes" not in body
    assert [kind for kind, _ in kinds(stated)] == [HARMFUL, EQUAL]
    assert [kind for kind, _ in kinds(Traffic())] == [EQUAL]


def test_the_plot_is_a_drawing_with_a_curve_for_each_rule():
    found = report(FAST, Traffic(rps=20, units=2000, relative_risk=10), runs=3, seed=1)
    picture = ElementTree.fromstring(draw(found))
    curves = picture.findall("{http://www.w3.org/2000/svg}polyline")
    assert len({curve.get("stroke") for curve in curves}) == 3
    dashed = [curve for curve in curves if curve.get("stroke-dasharray")]
    assert dashed and len(dashed) < len(curves)
    words = "".join(picture.itertext())
    assert "Plan 'fast'" in words and "this plan" in words and EQUAL in words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "-"), (5.04, "5.04 s"), (95, "95 s"), (600, "10 min"), (9000, "2.5 h"), (2e5, "2.31 d")]
)
def test_times_in_words(seconds: float | None, words: str):
    assert in_words(seconds) == words
