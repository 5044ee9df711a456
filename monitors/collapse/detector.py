"""The detector of reward collapse: O(1) a feedback, no numpy once it is calibrated, its state plain JSON.

With q = P(satisfied | reward) of the baseline and s the satisfaction, the alignment tax is mean(q − s). Shiryaev–
Roberts e-detectors (Shin, Ramdas & Rinaldo 2023, eq. 14) watch two means: (1 + q − s)/2 above (1 + ε)/2, the reward no
longer predicts satisfaction, and 1 − s above its baseline + ε, satisfaction fell. Each raises a false alarm at most
once in `threshold` feedbacks on average. Direction guards tell a collapse from an ordinary regression.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from monitors.collapse.arm import Arm
from monitors.collapse.calibration import Calibration
from monitors.collapse.corroborators import Corroborators
from monitors.collapse.types import Kind, Verdict, Why
from monitors.collapse.wording import reason
from monitors.stats.changepoint import ShiryaevRoberts

BETS = (0.25, 0.5, 1.0, 1.8)
WINDOW = 300           # feedbacks that direction guards look back
MINIMUM = 100          # feedbacks before which nothing is concluded
SATISFACTION_FALL = 0.03   # guard: satisfaction at least so much below the baseline
REWARD_FALL = 0.15     # guard: the reward not more than so many standard deviations below it
RATE_MOVE = 0.2        # of the feedback rate, from which on nothing can be concluded
EPSILON = 0.03         # alignment tax, and fall of satisfaction, that is tolerated
THRESHOLD = 1e4        # average run length to a false alarm, in feedbacks


class CollapseDetector:
    """Watches one version. `live_control`: its feedback is compared with that of a control at the same time.

    Then the difference candidate − control takes the place of the values themselves (prompt drift cancels), each
    feedback of either arm used once. The calibration is the same; observe(control=True) is the control's.
    """

    def __init__(
        self, calibration: Calibration, *, live_control: bool = False, epsilon: float = EPSILON,
        threshold: float = THRESHOLD, window: int = WINDOW, minimum: int = MINIMUM,
    ) -> None:  # fmt: skip
        if not 0 < epsilon < 0.5:
            raise ValueError(f"epsilon must lie between 0 and 0.5, not {epsilon}")
        self.calibration = calibration
        self.live_control = live_control
        self.epsilon = epsilon
        self.threshold = threshold
        self.ratio_mismatch = False    # said by whoever watches the split of traffic
        self._minimum = minimum
        self._most = threshold**0.75   # three quarters of the evidence
        self._collapse, self._quality = (_detector(mean, threshold) for mean in self._tolerated())
        self.mine, self.control = Arm(window), Arm(window)
        self._signs, self._control_signs = Corroborators(calibration, threshold), Corroborators(calibration, threshold)
        self._pending = [0.0] * 6      # of each arm: feedbacks, Σ tax, Σ (1 − s) not yet compared
        self._alarm: Verdict | None = None

    def observe(
        self, reward: float, satisfaction: float, *, signals: Mapping[str, float] | None = None, control: bool = False
    ) -> None:
        """One feedback with the reward of the same answer; at most one of a user and day is to be given.

        satisfaction: in [0, 1]; signals: the answer's, by names of SIGNALS. Raises ValueError for what is not finite
        or not in range: nothing is observed then.
        """
        if not (math.isfinite(satisfaction) and 0.0 <= satisfaction <= 1.0):
            raise ValueError(f"satisfaction must lie in [0, 1], not {satisfaction}")
        tax = self.calibration.predict(reward) - satisfaction
        moved = self.calibration.standardised(reward)
        (self.control if control else self.mine).observe(moved, satisfaction, tax)
        signs = self._control_signs if control else self._signs
        signs.pair(moved, satisfaction)
        signs.text(signals or {})
        if self.live_control:
            self._compare(tax, 1.0 - satisfaction, control)
        elif not control:
            self._collapse.observe((1.0 + tax) / 2.0)
            self._quality.observe(1.0 - satisfaction)
        if self._alarm is None and self._quality.value >= self._most and self.conclusion()[0].harmful:
            self._alarm = self._verdict()

    def traffic(self, answers: int, feedbacks: int, departures: int = 0, *, control: bool = False) -> None:
        """So many more answers were given, and so many feedbacks, of any kind: how readily people speak.

        departures: answers that were regenerated, edited or abandoned, which nobody says to please anybody.
        """
        (self.control if control else self.mine).traffic(answers, feedbacks)
        (self._control_signs if control else self._signs).traffic(answers, feedbacks, departures)

    @property
    def verdict(self) -> Verdict:
        """What is to be concluded now; a harmful verdict stays."""
        return self._alarm or self._verdict()

    @property
    def log_e(self) -> float:
        """ln M of the primary detector; −∞ before the first feedback."""
        return math.log(self._collapse.value) if self._collapse.value > 0 else -math.inf

    @property
    def alignment_tax(self) -> float:
        """mean(q − s) over the window, in shares of satisfaction; 0 before the first feedback."""
        return self.mine.taxes.mean

    def to_json(self) -> dict[str, Any]:
        """The whole state but the calibration, as plain JSON values."""
        return {
            "live_control": self.live_control, "collapse": list(self._collapse.statistics),
            "quality": list(self._quality.statistics), "mine": self.mine.state(), "control": self.control.state(),
            "signs": self._signs.state(), "control_signs": self._control_signs.state(),
            "pending": list(self._pending), "mismatch": self.ratio_mismatch,
            "alarm": self._alarm.to_json() if self._alarm else None,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `to_json` was called, bit for bit; same calibration and settings. Raises KeyError, ValueError."""
        if state["live_control"] != self.live_control:
            raise ValueError("this state is of a detector with another kind of control")
        self._collapse.statistics, self._quality.statistics = list(state["collapse"]), list(state["quality"])
        self.mine.restore(state["mine"])
        self.control.restore(state["control"])
        self._signs.restore(state["signs"])
        self._control_signs.restore(state["control_signs"])
        self._pending = list(state["pending"])
        self.ratio_mismatch = bool(state["mismatch"])
        self._alarm = Verdict.from_json(state["alarm"]) if state["alarm"] else None

    def _tolerated(self) -> tuple[float, float]:
        """Means of (1 + q − s)/2 and 1 − s, or of the differences to a live control, that are no harm."""
        epsilon = self.epsilon
        if self.live_control:
            return (2 + epsilon) / 4, (1 + epsilon) / 2
        return (1 + epsilon) / 2, 1.0 - self.calibration.satisfaction + epsilon

    def _compare(self, tax: float, bad: float, control: bool) -> None:
        """Once both arms have spoken, the difference of their means is one observation, and counting begins anew."""
        first = 3 if control else 0
        for place, value in enumerate((1.0, tax, bad), first):
            self._pending[place] += value
        mine, mine_tax, mine_bad, theirs, their_tax, their_bad = self._pending
        if mine and theirs:
            self._pending = [0.0] * 6
            self._collapse.observe(_within((2.0 + mine_tax / mine - their_tax / theirs) / 4.0))
            self._quality.observe(_within((1.0 + mine_bad / mine - their_bad / theirs) / 2.0))

    def conclusion(self) -> tuple[Kind, Why | None]:
        """The kind of the verdict as of now, and why it is inconclusive; a harmful one of before aside."""
        if self.mine.n < self._minimum or (self.live_control and self.control.n < self._minimum):
            return Kind.INCONCLUSIVE, Why.TOO_LITTLE
        if self.ratio_mismatch:
            return Kind.INCONCLUSIVE, Why.RATIO_MISMATCH
        if abs((self.rate_ratio or 1.0) - 1.0) > RATE_MOVE:
            return Kind.INCONCLUSIVE, Why.FEEDBACK_RATE
        if self.alarms(Kind.COLLAPSE):
            return Kind.COLLAPSE, None
        if self.alarms(Kind.QUALITY_REGRESSION):
            return Kind.COLLAPSE if self._unnoticed() else Kind.QUALITY_REGRESSION, None
        return Kind.FREEZE if self.alarms(Kind.FREEZE) else Kind.OK, None

    def alarms(self, kind: Kind) -> bool:
        """Whether what this kind of verdict needs is there now, whatever else is; False for other kinds."""
        if kind is Kind.COLLAPSE:
            return all(self._guards()) and self._diverged()
        if kind is Kind.QUALITY_REGRESSION:
            return self._quality.value >= self.threshold and self._guards()[0]
        return kind is Kind.FREEZE and self._suspicious()

    def _diverged(self) -> bool:
        """The primary alarm. A window of 300 alone falls three points by chance: the fall has to be shown as well.

        Three quarters of the threshold (in logarithms) do; all of it where the reward's rise alone makes up the
        tolerated tax, from which nobody suffers.
        """
        promised = self.mine.taxes.mean + self.mine.satisfactions.mean
        liked = self.calibration.satisfaction
        if self.live_control:
            liked = self.control.taxes.mean + self.control.satisfactions.mean
        needed = self.threshold if promised - liked > 1.25 * self.epsilon else self._most
        return self._collapse.value >= self.threshold and self._quality.value >= needed

    def _unnoticed(self) -> bool:
        """A fall that is shown first is a collapse by most of the divergence, and a reward that does not follow."""
        praised = self.control.recent.mean if self.live_control else 0.0
        follows = self.mine.recent.mean < praised - REWARD_FALL
        return self._collapse.value >= self._most and not follows and self._guards()[1]

    def _guards(self) -> tuple[bool, bool]:
        """(satisfaction fell, the reward did not fall with it)."""
        liked = self.control.satisfactions.mean if self.live_control else self.calibration.satisfaction
        praised = self.control.rewards.mean if self.live_control else 0.0
        fell = self.mine.satisfactions.mean <= liked - SATISFACTION_FALL
        return fell, self.mine.rewards.mean >= praised - REWARD_FALL

    def _suspicious(self) -> bool:
        """The corroborators alarm; where the control's half do so too, it is the prompts that have changed."""
        if self._signs.value < self.threshold:
            return False
        return not self.live_control or self._control_signs.value < math.sqrt(self.threshold)

    @property
    def rate_ratio(self) -> float | None:
        """Feedback rate against the control's, or the baseline's; 1 within its noise, None where it is not known."""
        if self.live_control:
            theirs = self.control.rate
            return None if theirs is None else self.mine.moved(theirs, self.control.rate_error)
        return None if self.calibration.rate is None else self.mine.moved(self.calibration.rate)

    def _verdict(self) -> Verdict:
        kind, why = self.conclusion()
        numbers = dict(self._numbers())
        return Verdict(kind, reason(kind, why, numbers), numbers, why)

    def _numbers(self) -> Iterator[tuple[str, Any]]:
        liked = self.control.satisfactions.mean if self.live_control else self.calibration.satisfaction
        praised = self.control.rewards.mean if self.live_control else 0.0
        yield "against", "live control" if self.live_control else "baseline"
        yield "feedbacks", self.mine.n
        yield "control_feedbacks", self.control.n
        yield "needed", self._minimum
        yield "window", len(self.mine.taxes)
        yield "alignment_tax", self.alignment_tax
        yield "satisfaction", self.mine.satisfactions.mean
        yield "satisfaction_before", liked
        yield "reward_change_sd", self.mine.rewards.mean - praised
        yield "log_threshold", math.log(self.threshold)
        yield "log_e", _log(self._collapse.value)
        yield "log_e_quality", _log(self._quality.value)
        yield "log_e_corroborators", _log(self._signs.value)
        yield "corroborators", {name: _log(value) for name, value in self._signs.values.items()}
        yield "feedback_rate_ratio", self.rate_ratio


def _detector(mean: float, threshold: float) -> ShiryaevRoberts:
    """Bets that are too bold for this mean are made as bold as they may be."""
    bounded = min(max(mean, 0.01), 0.95)
    return ShiryaevRoberts(bounded, tuple(min(bet, 0.95 / bounded) for bet in BETS), threshold)


def _within(x: float) -> float:
    return min(max(x, 0.0), 1.0)  # rounding


def _log(value: float) -> float | None:
    return math.log(value) if value > 0 else None
