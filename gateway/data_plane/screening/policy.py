"""From the guard's scores to what is done about a text: thresholds and actions, by route, direction and category."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gateway.screening_settings import Action, Direction, DirectionScreening, RouteScreening, ScreeningSettings
from monitors.labels import Verdict

UNNAMED, OTHER = "unnamed", "other"
CATEGORIES = (*(f"S{number}" for number in range(1, 15)), "injection", UNNAMED)
_LABEL = re.compile(r"S[1-9][0-9]?|injection")


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guard says of one text. `score`: highest P(unsafe) of any part, 0..1; `scores`: by category.

    `reason`: why there is no verdict. `away`: because of the guard, not of the text, which may be judged later.
    """

    score: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    unavailable: bool = False
    reason: str = ""
    away: bool = False

    @property
    def named(self) -> Iterator[tuple[str, float]]:
        """Score by category; a part that is worse than every named one has no name."""
        yield from self.scores.items()
        if self.score is not None and self.score > max(self.scores.values(), default=-1.0):
            yield UNNAMED, self.score


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is done about a text. `category`: of an unsafe one, that which decided."""

    verdict: Verdict
    blocks: bool = False
    category: str = ""
    reason: str = ""
    away: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Of one direction on one route. Thresholds are on the guard's calibrated P(unsafe), 0..1."""

    threshold: float
    thresholds: Mapping[str, float]
    actions: Mapping[str, Action]
    partial: float
    blocks_missing: bool
    enforce: bool

    def rule(self, judged: Judged, *, partial: bool = False) -> Ruling:
        """`partial`: the text is not finished, so only a surer verdict counts. A category that blocks goes first."""
        crossed = [
            (self._action(label) == "block", score, label)
            for label, score in judged.named
            if score > self._threshold(label, partial) and self._action(label) != "allow"
        ]
        if crossed:
            block, _, label = max(crossed)
            return Ruling(Verdict.UNSAFE, block and self.enforce, label)
        if judged.unavailable:
            blocks = self.blocks_missing and self.enforce
            return Ruling(Verdict.UNAVAILABLE, blocks, reason=judged.reason, away=judged.away)
        return Ruling(Verdict.SAFE)

    def _action(self, label: str) -> Action:
        return self.actions.get(label, "block")

    def _threshold(self, label: str, partial: bool) -> float:
        threshold = self.thresholds.get(label, self.threshold)
        return max(threshold, self.partial) if partial else threshold


@dataclass(frozen=True, slots=True)
class Policy:
    """Of one route. A direction without rules is not judged."""

    prompt: Rules | None
    response: Rules | None
    refuse_with_error: bool  # a blocked prompt is answered with 400


def compile_policy(settings: ScreeningSettings, route: str) -> Policy | None:
    """What holds on a route: the most special setting that is written down. None: it is not screened."""
    own = settings.routes.get(route, RouteScreening())
    mode = own.mode or settings.mode
    directions = settings.directions if own.directions is None else own.directions
    if mode == "off" or not directions:
        return None

    def rules(direction: Direction) -> Rules | None:
        if direction not in directions:
            return None
        both, one = (getattr(section, direction) for section in (settings, own))
        return _rules(settings, (both, own, one), mode == "enforce")

    return Policy(rules("prompt"), rules("response"), (own.refusal or settings.refusal) == "error")


def _rules(
    settings: ScreeningSettings, special: tuple[DirectionScreening | RouteScreening, ...], enforce: bool
) -> Rules:
    """`special`: from general to special."""
    threshold, missing = settings.threshold, settings.on_unavailable
    thresholds: dict[str, float] = dict(settings.thresholds)
    actions: dict[str, Action] = dict(settings.actions)
    for part in special:
        threshold = threshold if part.threshold is None else part.threshold
        missing = part.on_unavailable or missing
        thresholds |= part.thresholds
        actions |= part.actions
    return Rules(threshold, thresholds, actions, settings.partial_threshold, missing == "block", enforce)


def label_of(code: str) -> str:
    """A category as a metric's label: what is none becomes OTHER."""
    return code if _LABEL.fullmatch(code) else OTHER
