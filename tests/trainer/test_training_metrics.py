"""What Prometheus sees of a run."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapters.errors import ConfigError
from monitors import conventions as c
from tests.support.ports import free_port
from tests.support.waiting import PATIENCE
from trainer.training_metrics import FILE, TrainingMetrics


def values(text):
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert sample.labels == {"run": "support-1", "algorithm": "grpo"}
            found[sample.name] = sample.value
    return found


LOGS = {"reward": 0.5, "entropy": 0.4, "completions/mean_length": 7, "health.zero_variance_ratio": 0.25, "loss": 1.0}
LOOK = {"gold": 0.7, "kl": 0.01, "reward": 0.9, "entropy": 0.9, "completion_tokens": 9.0, "distinct_4": 0.5}


def test_the_file_has_the_six_metrics_of_the_conventions(tmp_path):
    metrics = TrainingMetrics(tmp_path, run="support-1", algorithm="grpo")
    metrics.looked(LOOK)
    assert values((tmp_path / FILE).read_text())["understudy_training_reward"] == 0.9  # until a batch is logged
    metrics.logged(LOGS)
    metrics.looked(LOOK)
    assert values((tmp_path / FILE).read_text()) == {
        c.TRAINING_REWARD.full_name: 0.5,
        c.TRAINING_GOLD.full_name: 0.7,
        c.TRAINING_KL.full_name: 0.01,
        c.TRAINING_ENTROPY.full_name: 0.4,
        c.TRAINING_TOKENS.full_name: 7,
        c.TRAINING_ZERO_VARIANCE.full_name: 0.25,
    }
    metrics.close()


def test_nothing_measured_is_not_exported(tmp_path):
    metrics = TrainingMetrics(tmp_path, run="support-1", algorithm="grpo")
    metrics.logged({"loss": 1.0, "reward": None})
    assert not (tmp_path / FILE).exists()


def test_a_port_serves_the_same_numbers(tmp_path):
    port = free_port()
    metrics = TrainingMetrics(tmp_path, run="support-1", algorithm="grpo", port=port)
    try:
        metrics.logged(LOGS)
        served = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).text
        assert values(served) == values((tmp_path / FILE).read_text())
        with pytest.raises(ConfigError, match=f"health.metrics_port {port} cannot be opened"):
            TrainingMetrics(tmp_path, run="other", algorithm="grpo", port=port)
    finally:
        metrics.close()
