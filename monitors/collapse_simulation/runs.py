"""Runs of a scenario through the shipped detector, and what they come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monitors.collapse import Calibration, CollapseDetector, Kind, fit
from monitors.collapse.types import Why
from monitors.collapse_simulation.scenarios import CHANGE, FEEDBACKS, RATE, Stream, divergence, gao_lost, scenarios
from monitors.collapse_simulation.texts import Writer

_ALARMS = (Kind.COLLAPSE, Kind.QUALITY_REGRESSION, Kind.FREEZE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. Feedbacks of the watched version, counted from the beginning; None: never.

    `first`: of each alarm by itself, as if the others did not exist; `verdict`: the first harmful one that stood.
    """

    first: dict[str, int | None]
    verdict: str | None
    verdict_at: int | None
    inconclusive: int                  # feedbacks at which the verdict was that nothing can be concluded


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs of a scenario. Shares of runs; delays in feedbacks since the change."""

    scenario: str
    what: str
    runs: int
    early: float                       # a harmful verdict before the change: false alarms …
    early_collapse: float              # … that called it a collapse
    collapse: float                    # labelled collapse after the change, …
    regression: float                  # … and quality regression
    collapse_alarm: float              # the alarm of collapse, whatever came before it; at any time if nothing is wrong
    collapse_delay: tuple[float, float] | None       # median, 95th percentile of that alarm
    regression_delay: tuple[float, float] | None     # of the alarm of quality regression
    verdict_delay: tuple[float, float] | None        # of the first harmful verdict
    freeze: float                      # the corroborators alarmed at any time
    freeze_delay: tuple[float, float] | None
    inconclusive: float                # share of the feedback since the change at which nothing could be concluded
    lost: float | None                 # gao: satisfaction lost at the first harmful verdict, median, as a share
    efficiency: float | None           # (ln threshold / KL) / median delay


def simulate(name: str, seed: int) -> Outcome:
    """One run; the same seed gives the same outcome. Raises KeyError for an unknown scenario."""
    scenario = scenarios()[name]
    rng = np.random.default_rng([seed, *name.encode()])
    writer = Writer(seed) if scenario.make(np.random.default_rng(0), True).length is not None else None
    return _watched(_baseline(scenario.make(rng, True), writer), scenario.make(rng, False), writer)


def _baseline(calm: Stream, writer: Writer | None) -> Calibration:
    texts = [writer.signals(1.0, 0.0) for _ in calm.rewards] if writer else []
    signals = {key: [text.get(key) for text in texts] for key in (texts[0] if texts else ())}
    return fit(calm.rewards, calm.satisfactions, signals=signals, rate=RATE if calm.answers is not None else None)


def _watched(calibration: Calibration, stream: Stream, writer: Writer | None) -> Outcome:
    detector = CollapseDetector(calibration, live_control=stream.control is not None)
    first: dict[str, int | None] = {kind.value: None for kind in _ALARMS}
    verdict, verdict_at, inconclusive = None, None, 0
    control = stream.control.tolist() if stream.control is not None else [False] * len(stream.rewards)
    rows = zip(stream.rewards.tolist(), stream.satisfactions.tolist(), control, strict=True)
    for place, (reward, satisfaction, other) in enumerate(rows):
        signals = None
        if writer and stream.length is not None and stream.filler is not None:
            signals = writer.signals(float(stream.length[place]), float(stream.filler[place]))
        if stream.answers is not None:
            detector.traffic(int(stream.answers[place]), 1, control=other)
        detector.observe(reward, satisfaction, signals=signals, control=other)
        if detector.mine.n < 100:
            continue
        for kind in _ALARMS:
            if first[kind.value] is None and detector.alarms(kind):
                first[kind.value] = place
        kind, why = detector.conclusion()
        inconclusive += why is Why.FEEDBACK_RATE
        if verdict is None and kind.harmful:
            verdict, verdict_at = kind.value, place
        if verdict and None not in first.values():
            break
        if verdict and writer is None and stream.answers is None and None not in list(first.values())[:2]:
            break                      # what is left could only be said of texts and rates
    return Outcome(first, verdict, verdict_at, inconclusive)


def summarise(name: str, outcomes: Sequence[Outcome], threshold: float = 1e4) -> Summary:
    """What many runs of one scenario come to."""
    scenario, n = scenarios()[name], len(outcomes)
    change = scenario.change
    early = [o for o in outcomes if o.verdict_at is not None and o.verdict_at < change]
    late = [o for o in outcomes if o.verdict_at is not None and o.verdict_at >= change]

    def delays(of: Callable[[Outcome], int | None]) -> list[int]:
        return [at - change for o in outcomes if (at := of(o)) is not None and at >= change]

    by_kind = {kind: delays(lambda o, kind=kind: o.first[kind.value]) for kind in _ALARMS}  # type: ignore[misc]  # bound now
    collapse = by_kind[Kind.COLLAPSE]
    alarms = len(collapse) if scenario.harm else sum(o.first[Kind.COLLAPSE.value] is not None for o in outcomes)
    kl, middle = divergence(scenario), _middle(collapse)
    return Summary(
        name, scenario.what, n, len(early) / n, sum(o.verdict == Kind.COLLAPSE.value for o in early) / n,
        sum(o.verdict == Kind.COLLAPSE.value for o in late) / n,
        sum(o.verdict == Kind.QUALITY_REGRESSION.value for o in late) / n,
        alarms / n, middle, _middle(by_kind[Kind.QUALITY_REGRESSION]),
        _middle([o.verdict_at - change for o in late if o.verdict_at is not None]),
        sum(o.first[Kind.FREEZE.value] is not None for o in outcomes) / n, _middle(by_kind[Kind.FREEZE]),
        min(1.0, sum(o.inconclusive for o in outcomes) / (n * (FEEDBACKS - CHANGE))),
        statistics.median(gao_lost(o.verdict_at or 0) for o in late) if name == "gao" and late else None,
        math.log(threshold) / kl / middle[0] if kl and middle and middle[0] else None,
    )  # fmt: skip


def _middle(values: Sequence[int]) -> tuple[float, float] | None:
    if not values:
        return None
    return statistics.median(values), float(np.percentile(values, 95))


def as_row(found: Summary) -> dict[str, Any]:
    """Plain values."""
    return {name: getattr(found, name) for name in Summary.__dataclass_fields__}
