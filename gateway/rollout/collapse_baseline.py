"""What a collapse detector is calibrated on: rewards, satisfactions and texts of a version's answers, as records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from adapters.collapse_store import CollapseStore, Pair, Wanted
from gateway.collapse_settings import CollapseSettings
from gateway.scoring.lanes import COMPOSITE
from monitors.collapse import Calibration, fit
from monitors.rewards.settings import RewardSpec

_TEXT = "text."
_COPIED = ("tokens", "duplicate_4gram", "compression_ratio", "repetition")


def fitted(
    store: CollapseStore, settings: CollapseSettings, wanted: Wanted, arms: Collection[int], pairs: Sequence[Pair]
) -> Calibration:
    """Calibrate on `pairs`, which are of these arms. Raises InsufficientData, DatabaseError."""
    kept = [(reward, pair) for pair in pairs if (reward := wanted.reward(pair.scores)) is not None]
    texts = [signals_of(pair.scores) for _, pair in kept]
    names = sorted({name for text in texts for name in text})
    rate = departures = None
    if pairs:
        found = store.counts_between(arms, pairs[0].at, pairs[-1].at)
        if found.answers and found.feedbacks:
            rate, departures = found.feedbacks / found.answers, found.departures / found.answers
    return fit(
        [reward for reward, _ in kept], [pair.satisfaction for _, pair in kept],
        signals={name: [text.get(name) for text in texts] for name in names}, rate=rate,
        departures=departures,
        method=settings.method, minimum=settings.baseline,
    )  # fmt: skip


def signals_of(scores: Mapping[str, float]) -> dict[str, float]:
    """What monitors.collapse.SIGNALS can be had of an answer's text.* scores."""
    found = {name: scores[_TEXT + name] for name in _COPIED if _TEXT + name in scores}
    characters, tokens = scores.get(f"{_TEXT}characters", 0.0), scores.get(f"{_TEXT}tokens", 0.0)
    ratio = scores.get(f"{_TEXT}compression_ratio", 0.0)
    if characters > 0 and tokens > 0 and ratio > 0:
        found["bytes_per_token"] = characters / ratio / tokens
    return found


def wanted_of(settings: CollapseSettings, graders: tuple[RewardSpec, ...]) -> Wanted:
    """Which feedback and whose score count. `graders`: of [rewards]; by default their weighted mean is the reward."""
    several = len(graders) != 1 and (not graders or any(g.weight > 0 and not g.gold for g in graders))
    grader = settings.grader or (COMPOSITE if several else graders[0].shown)
    return Wanted(tuple(settings.kinds), grader)
