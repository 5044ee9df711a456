"""What may happen to rewards and satisfaction, as streams of feedback.

Latent usefulness u ~ N(−δ, 1); reward r = .7u + .714e + h; satisfied with probability σ(1.6 + .9u). A change after
2000 of 8000 feedbacks: δ is what costs so many points of satisfaction, h what the reward does not notice of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BASELINE, FEEDBACKS, CHANGE = 2000, 8000, 2000
NEVER = FEEDBACKS
RATE = 0.05            # feedbacks per answer
DAY = 500              # feedbacks a day
USERS = 500            # who speak once a day each
OFFSET, SLOPE = 1.6, 0.9
_NOISE = 0.714


@dataclass(frozen=True, slots=True)
class Stream:
    """Feedback in order; arrays of shape (N,). `answers`: given since the feedback before; `padded`: see texts."""

    rewards: Floats
    satisfactions: Floats
    control: NDArray[np.bool_] | None = None
    answers: NDArray[np.int64] | None = None
    length: Floats | None = None       # of answers, in usual ones
    filler: Floats | None = None       # share of an answer that is stock phrases


@dataclass(frozen=True, slots=True)
class Scenario:
    """`make(rng, calm)`: the baseline where `calm`, else the stream. `change`: feedbacks before the harm begins.

    Where nothing is wrong that is never, and every verdict a false alarm.
    """

    name: str
    what: str
    make: Callable[[np.random.Generator, bool], Stream]
    harm: float = 0.0                  # points of satisfaction lost in the end, as a share; 0: nothing is wrong
    rise: float = 0.0                  # of the reward, in standard deviations
    change: int = CHANGE


def mean_satisfaction(shift: float) -> float:
    """E σ(1.6 + .9u) for u ~ N(shift, 1)."""
    nodes, weights = _quadrature()
    return float((weights * _sigmoid(OFFSET + SLOPE * (nodes + shift))).sum())


@cache
def _quadrature() -> tuple[Floats, Floats]:
    """Nodes and weights for the mean over N(0, 1): Gauss–Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    return nodes, weights / weights.sum()


@cache
def shift_for(drop: float) -> float:
    """δ that costs `drop` of mean satisfaction. Raises ValueError for more than there is."""
    from scipy.optimize import brentq

    wanted = mean_satisfaction(0.0) - drop
    return float(brentq(lambda delta: mean_satisfaction(-delta) - wanted, -5.0, 8.0)) if drop else 0.0


def _draw(rng: np.random.Generator, shift: Floats, h: Floats, spread: Floats | float = 1.0) -> tuple[Floats, Floats]:
    """(rewards, satisfactions) for means of u and additions to the reward, shape (N,)."""
    u = shift + spread * rng.normal(size=len(shift))
    rewards = 0.7 * u + _NOISE * rng.normal(size=len(u)) + h
    return rewards, (rng.random(len(u)) < _sigmoid(OFFSET + SLOPE * u)).astype(np.float64)


def _stepped(calm: bool, value: float) -> Floats:
    """0 until the change, then `value`."""
    if calm:
        return np.zeros(BASELINE)
    return np.where(np.arange(FEEDBACKS) < CHANGE, 0.0, value)


def _fall(drop: float, rise: float, *, ordinary: bool = False) -> Callable[[np.random.Generator, bool], Stream]:
    """Satisfaction falls; the reward goes up by `rise` instead of falling too (`ordinary`: it falls)."""

    def make(rng: np.random.Generator, calm: bool) -> Stream:
        delta = shift_for(drop)
        h = 0.0 if ordinary else 0.7 * delta + rise
        return Stream(*_draw(rng, -_stepped(calm, delta), _stepped(calm, h)))

    return make


def gao(d: Floats) -> Floats:
    """Gold reward at distance d = √KL from the start, d(α − β ln d): Gao, Schulman & Hilton (ICML 2023), RL.

    β is such that u has lost ten points of satisfaction's worth at d = 12; the best is at d = 3.
    """
    beta = shift_for(0.1) / (12 * (math.log(12) - math.log(3) - 1))
    safe = np.maximum(d, 1e-9)
    return np.asarray(safe * beta * (math.log(3) + 1 - np.log(safe)))


def _distance() -> Floats:
    return np.clip(12.0 * (np.arange(FEEDBACKS) - CHANGE) / 4000, 0.0, 12.0)


def _overoptimised(rng: np.random.Generator, calm: bool) -> Stream:
    """Step by step further along the proxy: better at first, then worse, while the proxy's reward only rises."""
    d = np.zeros(BASELINE) if calm else _distance()
    gold = gao(d)
    return Stream(*_draw(rng, gold, 0.1 * d - 0.7 * gold))


def _gao_change() -> int:
    """The feedback from which on satisfaction is below the baseline."""
    return int(np.nonzero(gao(_distance()) < 0)[0][0])


def gao_lost(place: int) -> float:
    """Satisfaction lost at a feedback of scenario "gao", as a share."""
    return mean_satisfaction(0.0) - mean_satisfaction(float(gao(_distance()[place : place + 1])[0]))


def _diurnal(drop: float) -> Callable[[np.random.Generator, bool], Stream]:
    """Other people by night: satisfaction goes up and down by about three points a day, and the reward with it."""

    def make(rng: np.random.Generator, calm: bool) -> Stream:
        delta = _stepped(calm, shift_for(drop))
        daily = 0.25 * np.sin(2 * np.pi * np.arange(len(delta)) / DAY)
        return Stream(*_draw(rng, daily - delta, 0.7 * delta))

    return make


def _doubled(rng: np.random.Generator, calm: bool) -> Stream:
    """Nothing is worse, but twice as many speak up, and those who did not before are less content."""
    new = _stepped(calm, 1.0) * (rng.random(BASELINE if calm else FEEDBACKS) < 0.5)
    rewards, satisfactions = _draw(rng, -0.8 * new, 0.4 * new)
    rate = RATE * (1.0 + _stepped(calm, 1.0))
    return Stream(rewards, satisfactions, answers=rng.geometric(rate))


def _same_users(drop: float) -> Callable[[np.random.Generator, bool], Stream]:
    """The same users day after day, half of a standard deviation apart."""

    def make(rng: np.random.Generator, calm: bool) -> Stream:
        entropy = np.atleast_1d(rng.bit_generator.seed_seq.entropy)  # type: ignore[attr-defined]  # numpy types the base class
        who = np.random.default_rng(entropy).normal(0.0, 0.5, USERS)  # the same ones in the baseline
        delta = _stepped(calm, shift_for(drop))
        days = [rng.permutation(USERS) for _ in range(len(delta) // USERS)]
        return Stream(*_draw(rng, who[np.concatenate(days)] - delta, 0.7 * delta, np.sqrt(0.75)))

    return make


def _longer(length: float, filler: float, drop: float) -> Callable[[np.random.Generator, bool], Stream]:
    def make(rng: np.random.Generator, calm: bool) -> Stream:
        stream = _fall(drop, 0.3 if drop else 0.0)(rng, calm)
        grown, padded = 1.0 + _stepped(calm, length - 1.0), _stepped(calm, filler)
        return Stream(stream.rewards, stream.satisfactions, length=grown, filler=padded)

    return make


def _with_control(drop: float, drift: float) -> Callable[[np.random.Generator, bool], Stream]:
    """Half of the users have the control. `drift`: of both, because other things are asked."""

    def make(rng: np.random.Generator, calm: bool) -> Stream:
        n = BASELINE if calm else FEEDBACKS
        control = np.zeros(n, bool) if calm else rng.random(n) < 0.5
        delta = np.where(control, 0.0, _stepped(calm, shift_for(drop)))
        drifted = _stepped(calm, shift_for(drift))
        rewards, satisfactions = _draw(rng, -delta - drifted, 0.7 * (delta + drifted))
        return Stream(rewards, satisfactions, control=None if calm else control)

    return make


@cache
def scenarios() -> MappingProxyType[str, Scenario]:
    """All of them by name, those of the specification first."""
    ten = _fall(0.1, 0.0)
    found = (
        Scenario("flat", "satisfaction -10 points, reward flat", ten, 0.1),
        Scenario("rising", "-10 points, reward +.3 SD", _fall(0.1, 0.3), 0.1, 0.3),
        Scenario("slight", "-5 points, reward flat", _fall(0.05, 0.0), 0.05),
        Scenario("stationary", "nothing changes", _fall(0.0, 0.0), change=NEVER),
        Scenario("ordinary", "an ordinary regression of -10 points", _fall(0.1, 0.0, ordinary=True), 0.1),
        Scenario("inflated", "reward +1 SD, users as before: nothing is wrong", _fall(0.0, 1.0), change=NEVER),
        Scenario("gao", "gradual over-optimisation up to -10 points", _overoptimised, 0.1, change=_gao_change()),
        Scenario("diurnal", "other users by night: nothing is wrong", _diurnal(0.0), change=NEVER),
        Scenario("diurnal-flat", "the same, and -10 points with flat reward", _diurnal(0.1), 0.1),
        Scenario("doubled", "twice as many speak, the new ones less content", _doubled, change=NEVER),
        Scenario("users", "the same users every day: nothing is wrong", _same_users(0.0), change=NEVER),
        Scenario("users-flat", "the same, and -10 points with flat reward", _same_users(0.1), 0.1),
        Scenario("longer", "answers twice as long, honestly: nothing is wrong", _longer(2.0, 0.0, 0.0), change=NEVER),
        Scenario("padded", "twice as long by stock phrases, -10 points, +.3 SD", _longer(2.0, 0.5, 0.1), 0.1, 0.3),
        Scenario("drift", "live control; both -10 points, flat: the prompts", _with_control(0.0, 0.1), change=NEVER),
        Scenario("control", "live control (50 %); the candidate -10 points, flat", _with_control(0.1, 0.0), 0.1),
    )  # fmt: skip
    return MappingProxyType({scenario.name: scenario for scenario in found})


def divergence(scenario: Scenario) -> float | None:
    """KL divergence of satisfaction given the reward, after against before the change, nats a feedback.

    Only of a step with an unmoved conditional spread: what an ideal detector that knows everything could use.
    """
    if not scenario.harm or scenario.name not in ("flat", "rising", "slight"):
        return None
    delta, rise = shift_for(scenario.harm), scenario.rise
    nodes, weights = _quadrature()
    r = nodes + rise                                   # rewards after the change: N(rise, 1)
    spread = np.sqrt(1 - 0.49)
    before = _given(0.7 * r, spread, weights, nodes)
    after = _given(0.7 * (r - rise) - delta, spread, weights, nodes)
    kl = after * np.log(after / before) + (1 - after) * np.log((1 - after) / (1 - before))
    return float((weights * kl).sum())


def _given(mean: Floats, spread: float, weights: Floats, nodes: Floats) -> Floats:
    """P(satisfied) for u ~ N(mean, spread²), for each mean."""
    return np.asarray(_sigmoid(OFFSET + SLOPE * (mean[:, None] + spread * nodes[None, :])) @ weights)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
