"""Measurements → Analysis: harm first, then whether the split is right, then whether the version has earned more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monitors.analysis.spec import JudgeSpec
from monitors.analysis.types import Analysis, BadEvent, Finding, Measurements, Verdict


def harm_findings(spec: JudgeSpec, bad_events: Mapping[str, Sequence[BadEvent]]) -> tuple[Finding, ...]:
    """The sequential harm tests alone: for a loop that looks after every event."""
    raise NotImplementedError


def judge(spec: JudgeSpec, measured: Measurements) -> Analysis:
    """The judgement of a step."""
    return Analysis(Verdict.INCONCLUSIVE, "not judged yet")
