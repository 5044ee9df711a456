"""The detector, one verdict at a time. How often it errs: tests/monitors/collapse_simulation."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator

import pytest

from monitors.collapse import Calibration, CollapseDetector, Kind, Verdict, fit
from monitors.collapse.types import Why
from monitors.stats.changepoint import ShiryaevRoberts


def feedback(seed: int, count: int, drop: float = 0.0, h: float = 0.0) -> Iterator[tuple[float, float]]:
    """(reward, satisfaction): usefulness `drop` lower, and `h` that the reward does not notice of it."""
    rng = random.Random(seed)
    for _ in range(count):
        u = rng.gauss(-drop, 1)
        yield 0.7 * u + 0.714 * rng.gauss(0, 1) + h, float(rng.random() < 1 / (1 + math.exp(-1.6 - 0.9 * u)))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rewards, satisfied = zip(*feedback(1, 4000), strict=True)
    return fit(rewards, satisfied, rate=0.05)


def watched(detector: CollapseDetector, rows: Iterator[tuple[float, float]], **more) -> CollapseDetector:
    for reward, satisfaction in rows:
        detector.observe(reward, satisfaction, **more)
    return detector


def test_the_first_steps_are_those_of_the_formula(calibration):
    """x = (1 + q − s)/2 against (1 + ε)/2; and 1 − s against the baseline's + ε."""
    detector = CollapseDetector(calibration, epsilon=0.05)
    collapse = ShiryaevRoberts(1.05 / 2)
    quality = ShiryaevRoberts(1 - calibration.satisfaction + 0.05)
    for reward, satisfaction in feedback(2, 50):
        detector.observe(reward, satisfaction)
        collapse.observe((1 + calibration.predict(reward) - satisfaction) / 2)
        quality.observe(1 - satisfaction)
    assert detector.log_e == pytest.approx(math.log(collapse.value))
    numbers = detector.verdict.numbers
    assert numbers["log_e"] == pytest.approx(math.log(collapse.value))
    assert numbers["log_e_quality"] == pytest.approx(math.log(quality.value))
    assert numbers["log_threshold"] == pytest.approx(math.log(1e4))


def test_the_tax_is_the_mean_of_what_was_promised_and_not_kept(calibration):
    detector = CollapseDetector(calibration, window=10)
    assert detector.alignment_tax == 0.0
    rows = list(feedback(3, 40))
    watched(detector, iter(rows))
    wanted = sum(calibration.predict(r) - s for r, s in rows[-10:]) / 10
    assert detector.alignment_tax == pytest.approx(wanted)


def test_nothing_is_fine_before_there_is_enough(calibration):
    detector = CollapseDetector(calibration)
    assert (detector.verdict.kind, detector.verdict.why) == (Kind.INCONCLUSIVE, Why.TOO_LITTLE)
    assert not detector.verdict.holds
    watched(detector, feedback(4, 99))
    assert "99 so far, 100 are needed" in detector.verdict.reason
    watched(detector, feedback(5, 1))
    assert detector.verdict.kind is Kind.OK and "nothing found" in detector.verdict.reason


@pytest.mark.parametrize(("h", "kind", "said"), [
    (0.9, Kind.COLLAPSE, "reward collapse: satisfaction 0."), (0.0, Kind.QUALITY_REGRESSION, "quality regression"),
])  # fmt: skip
def test_a_fall_is_named_by_what_the_reward_says(calibration, h, kind, said):
    detector = watched(CollapseDetector(calibration), feedback(6, 300))
    watched(detector, feedback(7, 900, drop=1.2, h=h))
    verdict = detector.verdict
    assert verdict.kind is kind and verdict.kind.harmful and said in verdict.reason
    assert verdict.numbers["satisfaction"] < verdict.numbers["satisfaction_before"] - 0.03
    assert (verdict.numbers["reward_change_sd"] >= -0.15) is (kind is Kind.COLLAPSE)


def test_a_harmful_verdict_stays(calibration):
    detector = watched(CollapseDetector(calibration), feedback(8, 900, drop=1.2, h=0.9))
    before = detector.verdict
    watched(detector, feedback(9, 3000))
    assert detector.verdict == before and before.kind is Kind.COLLAPSE
    assert detector.conclusion()[0] is not Kind.COLLAPSE


def test_a_better_reward_alone_is_no_collapse(calibration):
    """Users are as content as before, the grader likes the answers more: a tax, and nobody's harm."""
    detector = watched(CollapseDetector(calibration), feedback(10, 3000, h=1.0))
    assert detector.alignment_tax > 0.03 and detector.log_e > math.log(1e4)
    assert detector.verdict.kind is Kind.OK


def test_other_people_speaking_makes_it_inconclusive(calibration):
    detector = CollapseDetector(calibration)
    for reward, satisfaction in feedback(11, 400):
        detector.traffic(8, 1)  # 0.125 a feedback, of 0.05
        detector.observe(reward, satisfaction)
    for reward, satisfaction in feedback(12, 900, drop=0.4, h=0.3):  # the new ones are less content
        detector.traffic(8, 1)
        detector.observe(reward, satisfaction)
    verdict = detector.verdict
    assert (verdict.kind, verdict.why, verdict.holds) == (Kind.INCONCLUSIVE, Why.FEEDBACK_RATE, True)
    assert "2.50 times as often" in verdict.reason


def test_a_wrong_split_makes_it_inconclusive(calibration):
    detector = watched(CollapseDetector(calibration), feedback(13, 200))
    detector.ratio_mismatch = True
    assert (detector.verdict.kind, detector.verdict.why) == (Kind.INCONCLUSIVE, Why.RATIO_MISMATCH)
    assert detector.verdict.holds


def test_signs_alone_freeze_and_never_condemn():
    rows = list(feedback(14, 2000))
    rng = random.Random(15)
    repeated = [rng.betavariate(2, 8) for _ in rows]
    calibration = fit(*zip(*rows, strict=True), signals={"repetition": repeated})
    detector = CollapseDetector(calibration)
    for reward, satisfaction in feedback(16, 400):
        detector.observe(reward, satisfaction, signals={"repetition": rng.betavariate(6, 4)})
    verdict = detector.verdict
    assert verdict.kind is Kind.FREEZE and verdict.holds and not verdict.kind.harmful
    assert "repetition (ln e" in verdict.reason and verdict.numbers["corroborators"]["repetition"] > math.log(1e4)


def compared(calibration: Calibration, mine: float, both: float, seed: int, count: int = 3000) -> CollapseDetector:
    """A live control with half of the users; `mine` and `both`: drops that the reward does not notice."""
    detector, rng = CollapseDetector(calibration, live_control=True), random.Random(seed)
    h = 0.7 * (mine + both) + 0.2 * bool(mine)
    streams = [feedback(seed + 1, count, mine + both, h), feedback(seed + 2, count, both, 0.7 * both)]
    for _ in range(count):
        other = rng.random() < 0.5
        reward, satisfaction = next(streams[other])
        detector.observe(reward, satisfaction, control=other)
    return detector


def test_with_a_live_control_drift_of_both_cancels(calibration):
    """The same drift without a control would be a collapse."""
    assert compared(calibration, 0.0, 1.2, 20).verdict.kind is Kind.OK
    assert watched(CollapseDetector(calibration), feedback(21, 1500, 1.2, 0.84)).verdict.kind is Kind.COLLAPSE


def test_with_a_live_control_the_candidates_own_collapse_is_found(calibration):
    verdict = compared(calibration, 1.2, 0.0, 30).verdict
    assert verdict.kind is Kind.COLLAPSE and verdict.numbers["against"] == "live control"
    assert verdict.numbers["satisfaction_before"] == pytest.approx(calibration.satisfaction, abs=0.08)


def test_the_control_needs_enough_feedback_too(calibration):
    detector = watched(CollapseDetector(calibration, live_control=True), feedback(40, 500))
    assert detector.verdict.why is Why.TOO_LITTLE and "0 of the control" in detector.verdict.reason
    assert detector.log_e == -math.inf  # nothing was compared


def test_each_feedback_is_compared_once(calibration):
    """control, control, candidate → one difference against the mean of two."""
    detector = CollapseDetector(calibration, live_control=True)
    rows = [(0.3, 1.0, True), (0.1, 0.0, True), (0.2, 0.0, False), (0.5, 1.0, False)]
    for reward, satisfaction, control in rows:
        detector.observe(reward, satisfaction, control=control)
    tax = [calibration.predict(r) - s for r, s, _ in rows]
    wanted = ShiryaevRoberts(2.03 / 4)
    wanted.observe((2 + tax[2] - (tax[0] + tax[1]) / 2) / 4)
    assert detector.log_e == pytest.approx(math.log(wanted.value))


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize("every", [1, 7])
def test_it_survives_restarts_bit_for_bit(calibration, control, every):
    whole, part = (CollapseDetector(calibration, live_control=control) for _ in range(2))
    rng = random.Random(50)
    for place, (reward, satisfaction) in enumerate(feedback(51, 700, 1.0, 0.7)):
        other = control and rng.random() < 0.5
        for detector in (whole, part):
            detector.traffic(20, 1, control=other)
            detector.observe(reward, satisfaction, control=other, signals={"tokens": 5.0})
        if place % every == 0:
            state = json.loads(json.dumps(part.to_json()))
            part = CollapseDetector(Calibration.from_json(json.loads(json.dumps(calibration.to_json()))), live_control=control)
            part.restore(state)
    assert part.to_json() == whole.to_json() and part.verdict == whole.verdict
    assert whole.verdict.kind.harmful or control


def test_a_state_of_another_kind_is_refused(calibration):
    with pytest.raises(ValueError, match="another kind of control"):
        CollapseDetector(calibration).restore(CollapseDetector(calibration, live_control=True).to_json())


@pytest.mark.parametrize(("reward", "satisfaction"), [(math.nan, 1.0), (math.inf, 1.0), (0.0, 1.5), (0.0, math.nan), (0.0, -0.1)])
def test_nonsense_is_refused_and_not_observed(calibration, reward, satisfaction):
    detector = watched(CollapseDetector(calibration), feedback(60, 10))
    before = detector.to_json()
    with pytest.raises(ValueError, match=r"finite|must lie"):
        detector.observe(reward, satisfaction)
    assert detector.to_json() == before


def test_a_route_that_nobody_likes_can_be_watched():
    """Satisfaction of 0.2: bets are bounded by the mean of what is bad."""
    rng = random.Random(61)
    rows = [(rng.gauss(0, 1), float(rng.random() < 0.2)) for _ in range(2000)]
    detector = CollapseDetector(fit(*zip(*rows, strict=True)))
    watched(detector, ((rng.gauss(0, 1), float(rng.random() < 0.2)) for _ in range(1000)))
    assert detector.verdict.kind is Kind.OK


def test_a_verdict_comes_back_from_json(calibration):
    for detector in (CollapseDetector(calibration), watched(CollapseDetector(calibration), feedback(62, 150))):
        assert Verdict.from_json(json.loads(json.dumps(detector.verdict.to_json()))) == detector.verdict
