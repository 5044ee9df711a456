"""Measurements → Verdict{PASS, FAIL, INCONCLUSIVE, ERROR}: pure, no clock, no database. See docs/statistics.md."""

from monitors.analysis.harm import HarmTests
from monitors.analysis.judge import harm_findings, judge
from monitors.analysis.spec import JudgeSpec, MetricSpec
from monitors.analysis.types import Analysis, ArmSums, BadEvent, Decision, Finding, Measurements, Verdict

__all__ = [
    "Analysis",
    "ArmSums",
    "BadEvent",
    "Decision",
    "Finding",
    "HarmTests",
    "JudgeSpec",
    "Measurements",
    "MetricSpec",
    "Verdict",
    "harm_findings",
    "judge",
]
