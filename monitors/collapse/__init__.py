"""Reward collapse: the automated reward stops predicting satisfaction. Calibrate on a good version, then watch.

    calibration = fit(rewards, satisfactions)             # ≥ 2000 feedbacks of the version before
    detector = CollapseDetector(calibration)
    detector.observe(reward, satisfaction)                # one feedback a user and day
    detector.verdict                                      # Verdict(kind, reason, numbers)

The method, with its error rates and delays: docs/collapse.md.
"""

from monitors.collapse.calibration import Calibration, fit
from monitors.collapse.corroborators import SIGNALS
from monitors.collapse.detector import CollapseDetector
from monitors.collapse.types import Kind, Verdict

__all__ = ["SIGNALS", "Calibration", "CollapseDetector", "Kind", "Verdict", "fit"]
