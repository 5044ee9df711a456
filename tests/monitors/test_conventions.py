import re
from pathlib import Path

import pytest

from monitors import conventions as c

CONTRACT = {
    "requests_total": "route,version,arm,endpoint,code,outcome",
    "request_duration_seconds": "route,version,arm,endpoint",
    "time_to_first_token_seconds": "route,version,arm,endpoint",
    "time_per_output_token_seconds": "route,version,arm,endpoint",
    "gateway_overhead_seconds": "route,version,arm,endpoint",
    "tokens_total": "route,version,type",
    "requests_in_flight": "route",
    "failovers_total": "engine",
    "rate_limited_total": "reason",
    "requests_without_unit_total": "route",
    "reward_score": "route,version,arm,grader",
    "satisfaction_score": "route,version,arm",
    "response_tokens": "route,version",
    "response_duplicate_ngram_ratio": "route,version",
    "response_compression_ratio": "route,version",
    "feedback_total": "route,version,arm,kind",
    "alignment_tax_ratio": "route,version",
    "collapse_log_evalue": "route,version",
    "screening_total": "route,version,stage,verdict,category",
    "screening_duration_seconds": "stage",
    "rollout_weight_ratio": "route,version",
    "rollout_phase": "route,version,phase",
    "rollout_log_evalue": "route,version,metric",
    "rollout_effect": "route,version,metric,bound",
    "rollout_ratio_mismatch_log_evalue": "route,version",
    "rollbacks_total": "route,reason",
    "shadow_total": "route,outcome",
    "events_dropped_total": "kind",
    "breaker_trips_total": "route,version",
    "scoring_samples_total": "grader,outcome",
    "scoring_duration_seconds": "grader",
    "scoring_waiting_samples": "",
    "scoring_refused_total": "",
    "guard_verdicts_total": "role,verdict",
    "guard_duration_seconds": "",
    "guard_pass_duration_seconds": "",
    "guard_batch_prompts": "",
    "guard_waiting_prompts": "",
    "guard_refused_total": "",
    "training_reward": "run,algorithm",
    "training_gold": "run,algorithm",
    "training_kl": "run,algorithm",
    "training_entropy": "run,algorithm",
    "training_completion_tokens": "run,algorithm",
    "training_zero_variance_ratio": "run,algorithm",
    "engine_up": "engine",
    "adapter_loaded": "engine,version",
    "adapter_load_duration_seconds": "",
    "route_snapshot_age_seconds": "",
    "controller_leader": "",
    "build_info": "version",
}


def test_names_and_labels_are_those_users_rely_on() -> None:
    assert {metric.name: ",".join(metric.labels) for metric in c.METRICS} == CONTRACT


def test_documentation_is_current() -> None:
    path = Path(__file__).parents[2] / "docs" / "metrics.md"
    regenerate = "run: python -m monitors.conventions > docs/metrics.md"
    assert path.read_text(encoding="utf-8") == c.render_markdown(), regenerate


@pytest.mark.parametrize("metric", c.METRICS, ids=lambda metric: metric.name)
def test_metric_is_well_formed(metric: c.Metric) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.help.endswith(".")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert len(set(metric.labels)) == len(metric.labels)
    assert not set(metric.labels) & {"le", "quantile", "job", "instance"}
    assert metric.width == (len(metric.buckets) + 2 if metric.buckets else 1)
