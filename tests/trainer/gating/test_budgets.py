"""What the adapter itself may cost."""

from __future__ import annotations

from adapters.types import AdapterVersion, Kind, Stage
from trainer.gating.budgets import budget_rules
from trainer.gating.rules import PromotionRules

VERSION = AdapterVersion("a@0123456789ab", "a", "0" * 64, Kind.ADAPTER, Stage.CANDIDATE, 0.0, 16, 8 * 1024**2, "", {}, {})


def test_limits():
    assert budget_rules(PromotionRules(), VERSION) == []
    rank, size = budget_rules(PromotionRules(max_rank=16, max_size_mib=7.5), VERSION)
    assert (rank.verdict, size.verdict) == ("pass", "fail")
    assert (rank.says, size.says) == ("rank 16, at most 16", "MiB 8, at most 7.5")
