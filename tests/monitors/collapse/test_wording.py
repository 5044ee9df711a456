from __future__ import annotations

from monitors.collapse.types import Kind, Why
from monitors.collapse.wording import reason

NUMBERS = {
    "against": "baseline", "feedbacks": 40, "control_feedbacks": 0, "needed": 100, "window": 300, "alignment_tax": 0.12,
    "satisfaction": 0.7, "satisfaction_before": 0.8, "reward_change_sd": 0.31, "log_threshold": 9.2, "log_e": 9.9,
    "log_e_quality": None, "corroborators": {"padding": 12.0, "rate": None, "repetition": -1.0}, "feedback_rate_ratio": 2.0,
}  # fmt: skip


def test_every_verdict_is_one_sentence_with_its_numbers():
    said = {kind: reason(kind, None, NUMBERS) for kind in Kind if kind is not Kind.INCONCLUSIVE}
    assert said[Kind.COLLAPSE] == (
        "reward collapse: satisfaction 0.800 → 0.700 over the last 300 feedbacks, the reward +0.31 SD; "
        "alignment tax +12.0 points, ln e 9.9 of 9.2"
    )
    assert "ln e - of 9.2" in said[Kind.QUALITY_REGRESSION]
    assert "padding (ln e 12.0);" in said[Kind.FREEZE] and "rate" not in said[Kind.FREEZE]
    for why in (Why.TOO_LITTLE, Why.FEEDBACK_RATE, Why.RATIO_MISMATCH):
        assert "\n" not in reason(Kind.INCONCLUSIVE, why, NUMBERS)
