from __future__ import annotations

from gateway.rollout.collapse_report import LEAST, CollapseMetrics, rewards_lines
from monitors.collapse import CollapseDetector, fit
from monitors.metrics_server import exposition
from monitors.shared_values import SharedValues
from tests.support.collapse import collapsed, opinions

VERSION = "r@222222222222"


def detector(*feeds) -> CollapseDetector:
    made = CollapseDetector(fit(*zip(*opinions(1, 2000), strict=True)))
    for feed in feeds:
        for reward, satisfaction in feed:
            made.observe(reward, satisfaction)
    return made


def test_gauges_come_with_the_first_feedback_and_go_with_the_version(tmp_path):
    values = SharedValues(tmp_path, "test")
    metrics = CollapseMetrics(values)
    metrics.show("r", VERSION, detector())
    assert "alignment_tax_ratio{" not in exposition(tmp_path)[0].decode()
    metrics.show("r", VERSION, detector([(0.0, 1.0)]))
    assert "understudy_alignment_tax_ratio{" in exposition(tmp_path)[0].decode()
    metrics.show("r", VERSION, watched := detector(collapsed(2, 400)))
    line = f'understudy_collapse_log_evalue{{route="r",version="{VERSION}"}} {watched.log_e!r}'
    assert line in exposition(tmp_path)[0].decode() and watched.log_e > 9.2 > LEAST
    metrics.gone(VERSION)
    assert VERSION not in exposition(tmp_path)[0].decode()
    values.close()


def test_an_incident_shows_reward_against_satisfaction():
    verdict = detector(collapsed(3, 400)).verdict.to_json()
    verdict["numbers"]["samples"] = ["chatcmpl-1"]
    text = "\n".join(rewards_lines({"cause": "collapse", **verdict}))
    assert "| verdict | collapse |" in text and "| threshold (ln) | 9.21 |" in text and "`chatcmpl-1`" in text
    assert rewards_lines({"cause": "after_promotion", "collapse": verdict}) == rewards_lines({"cause": "collapse", **verdict})


def test_without_a_verdict_there_is_nothing_to_show():
    assert rewards_lines({}) == rewards_lines({"cause": "error"}) == []
    none = {"kind": "inconclusive", "reason": "no baseline", "numbers": {"needed": 2000}, "why": "too_little"}
    assert rewards_lines({"cause": "after_promotion", "collapse": none}) == []
