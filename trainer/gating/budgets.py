"""What the adapter itself may cost: rank and size."""

from __future__ import annotations

from adapters.types import AdapterVersion
from trainer.gating.findings import Finding, within
from trainer.gating.rules import PromotionRules

_MIB = 1024**2


def budget_rules(rules: PromotionRules, version: AdapterVersion) -> list[Finding]:
    """Findings for the limits that are set."""
    findings = []
    if rules.max_rank:
        findings.append(within("rank", version.rank, rules.max_rank, "rank"))
    if rules.max_size_mib:
        findings.append(within("size", version.size_bytes / _MIB, rules.max_size_mib, "MiB"))
    return findings
