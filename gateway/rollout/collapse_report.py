"""What collapse detectors say: as metrics, and in incident reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitors.collapse import CollapseDetector, Kind
from monitors.conventions import ALIGNMENT_TAX, COLLAPSE_EVALUE
from monitors.shared_values import SharedValues

LEAST = -20.0          # ln of an e-value of nothing; a gauge has no minus infinity that anybody could plot


class CollapseMetrics:
    """Gauges per watched version."""

    def __init__(self, values: SharedValues) -> None:
        self._values = values

    def show(self, route: str, version: str, detector: CollapseDetector) -> None:
        """What is known now; nothing before the first feedback."""
        if detector.mine.n:
            self._values.gauge(ALIGNMENT_TAX, route, version).set(detector.alignment_tax)
            self._values.gauge(COLLAPSE_EVALUE, route, version).set(max(detector.log_e, LEAST))

    def gone(self, version: str) -> None:
        """It is not watched any more: its series go."""
        self._values.drop("version", version, (ALIGNMENT_TAX, COLLAPSE_EVALUE))


def rewards_lines(numbers: Mapping[str, Any]) -> list[str]:
    """Markdown of an incident report: reward against satisfaction. `numbers`: of the event, with or without a verdict.

    Empty where no collapse detector had its say.
    """
    verdict = numbers.get("collapse") or (numbers if numbers.get("cause") in tuple(Kind) else {})
    found = verdict.get("numbers") or {}
    if "alignment_tax" not in found:
        return []
    rows = {
        "verdict": verdict["kind"],
        "compared with": found["against"],
        "feedbacks (of the control)": f"{found['feedbacks']} ({found['control_feedbacks']})",
        "satisfaction, before → now": f"{found['satisfaction_before']:.3f} → {found['satisfaction']:.3f}",
        "reward, standard deviations": f"{found['reward_change_sd']:+.2f}",
        "alignment tax, points": f"{100 * found['alignment_tax']:+.1f}",
        "ln e: reward against satisfaction": _number(found["log_e"]),
        "ln e: satisfaction alone": _number(found["log_e_quality"]),
        "ln e: corroborators": _number(found["log_e_corroborators"]),
        "threshold (ln)": _number(found["log_threshold"]),
    }
    table = [f"| {name} | {value} |" for name, value in rows.items()]
    samples = [f"- praised by the reward, not by its user: `{name}`" for name in found.get("samples", [])]
    lines = ["", "## Reward and satisfaction", "", "| | |", "| --- | --- |", *table]
    return [*lines, "", *samples] if samples else lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
