"""A population of returning users that asks, is answered well or badly, and sometimes says so: numpy, seeded.

Requests are a Poisson stream; each comes from a random unit. Only sums per unit are kept, as the database would add
them up, and each unit's first bad event per metric with the moment it happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.errors import ConfigError
from monitors.analysis import ArmSums
from monitors.analysis.spec import KNOWN, MetricSpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What stable does in a simulation: shares of answers. Only the metric that is asked about gets another rate.
BASE_RATES = {"truncated": 0.0005, "empty": 0.001, "non_finite": 0.0, "guard": 0.002, "error": 0.002,
              "slow_ttft": 0.02, "slow_duration": 0.01}  # fmt: skip
SCORED = 0.1     # share of answers that graders see
_NO_EFFECT = 0.5  # coefficient of variation of metrics that are neither rates nor scores


@dataclass(frozen=True, slots=True)
class Traffic:
    """The stated traffic, and what is wrong with the candidate. Rates are shares of answers, 0..1."""

    rps: float = 20.0                  # requests per second of the route
    units: int = 20_000                # users who take turns
    metric: str = "error"              # the event that `bad_rate` and `relative_risk` are about
    bad_rate: float = 0.01             # of stable
    relative_risk: float = 1.0         # candidate / stable
    satisfaction: float = 0.8          # share of feedback that is good, on stable
    satisfaction_change: float = 0.0   # candidate − stable
    feedback_rate: float = 0.05        # share of answers with feedback
    reward: float = 0.7                # mean on stable, 0..1
    reward_sd: float = 0.2
    reward_change: float = 0.0         # candidate − stable, in standard deviations

    def check(self) -> Traffic:
        """Itself. Raises ConfigError with one line for traffic that cannot be."""
        if not (self.rps > 0 and np.isfinite(self.rps)) or self.units < 2:
            raise ConfigError("requests per second must be above 0, and there must be at least 2 units")
        if KNOWN.get(self.metric, {}).get("kind") != "event" or self.metric == "thumbs_down":
            events = ", ".join(name for name, values in KNOWN.items() if values["kind"] == "event")
            raise ConfigError(f"{self.metric!r} is no bad event of an answer: {events.replace(', thumbs_down', '')}")
        shares = {"bad rate": self.bad_rate, "satisfaction": self.satisfaction, "feedback rate": self.feedback_rate,
                  "candidate's bad rate": self.bad_rate * self.relative_risk, "reward": self.reward,
                  "candidate's satisfaction": self.satisfaction + self.satisfaction_change}  # fmt: skip
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"the {name} would be {value:g}: it must lie between 0 and 1")
        if self.relative_risk < 0 or self.reward_sd <= 0:
            raise ConfigError("the relative risk must not be negative, and the reward's standard deviation above 0")
        return self

    @property
    def harmless(self) -> Traffic:
        """The same traffic with a candidate that equals stable."""
        return replace(self, relative_risk=1.0, satisfaction_change=0.0, reward_change=0.0)

    def rate(self, metric: str, candidate: bool) -> float:
        """Share of an arm's answers that are bad in this way."""
        base = self.bad_rate if metric == self.metric else BASE_RATES.get(metric, 0.0)
        return base * self.relative_risk if candidate and metric == self.metric else base

    def good(self, candidate: bool) -> float:
        """Share of an arm's feedback that is good."""
        return self.satisfaction + (self.satisfaction_change if candidate else 0.0)


class FirstEvent(NamedTuple):
    """A unit's first bad event for a metric."""

    at: float                          # seconds since the rollout began
    metric: str
    candidate: bool


class Population:
    """One simulated rollout's users. `candidates` of them, in the order of their buckets, are the candidate's."""

    def __init__(self, traffic: Traffic, metrics: Sequence[MetricSpec], rng: np.random.Generator) -> None:
        self.traffic = traffic
        self._rng = rng
        self._buckets = np.sort(rng.random(traffic.units))
        self._metrics = [metric.name for metric in metrics]
        self._events = [m.name for m in metrics if m.kind == "event" and m.name != "thumbs_down"]
        self._seen = {name: np.zeros(traffic.units, dtype=np.bool_) for name in (*self._events, "thumbs_down")}
        self.share = 0.0
        self.candidates = 0
        self.begin_step(0.0)

    def begin_step(self, share: float) -> None:
        """Everything below `share` is the candidate's from now on; the sums of the step begin anew."""
        self.share, size = share, self.traffic.units
        self.candidates = int(np.searchsorted(self._buckets, share))
        names = {*self._metrics, "answers", "feedback", "thumbs_down", "scored"}
        self._sums: dict[str, Floats] = {name: np.zeros(size) for name in sorted(names)}

    def advance(self, start: float, seconds: float) -> list[FirstEvent]:
        """Let time pass; the first bad events of units, in order of time."""
        rng, size = self._rng, self.traffic.units
        requests: Ints = rng.poisson(self.traffic.rps * seconds / size, size)
        self._sums["answers"] += requests
        events: list[FirstEvent] = []
        for candidate, units in ((True, slice(0, self.candidates)), (False, slice(self.candidates, size))):
            ends = np.cumsum(requests[units])
            if ends.size == 0 or ends[-1] == 0:
                continue
            for name in self._events:
                hit = self._hit(ends, self.traffic.rate(name, candidate)) + units.start
                np.add.at(self._sums[name], hit, 1.0)
                events += self._first(name, hit, candidate, start, seconds)
            events += self._words(ends, units.start, candidate, start, seconds)
            self._score(ends, units.start, candidate)
        return sorted(events)

    def _hit(self, ends: Ints, rate: float) -> Ints:
        """Units of a random `rate` of the requests; `ends` is the running total of requests over units."""
        count = self._rng.binomial(int(ends[-1]), rate)
        positions = self._rng.integers(0, int(ends[-1]), count)
        return np.searchsorted(ends, positions, side="right")

    def _first(self, name: str, hit: Ints, candidate: bool, start: float, seconds: float) -> list[FirstEvent]:
        """Those that are their unit's first. Within the interval the moments are uniform."""
        times = np.sort(self._rng.random(hit.size)) * seconds + start
        fresh = ~self._seen[name][hit]
        _, firsts = np.unique(hit[fresh], return_index=True)
        self._seen[name][hit] = True
        return [FirstEvent(float(at), name, candidate) for at in times[fresh][firsts]]

    def _words(
        self, ends: Ints, offset: int, candidate: bool, start: float, seconds: float
    ) -> list[FirstEvent]:
        """Feedback: satisfaction for the estimate, the first thumbs-down for the sequential test."""
        given = self._hit(ends, self.traffic.feedback_rate) + offset
        bad = given[self._rng.random(given.size) >= self.traffic.good(candidate)]
        np.add.at(self._sums["feedback"], given, 1.0)
        np.add.at(self._sums["thumbs_down"], bad, 1.0)
        return self._first("thumbs_down", bad, candidate, start, seconds) if "thumbs_down" in self._metrics else []

    def _score(self, ends: Ints, offset: int, candidate: bool) -> None:
        """Graders see a sample of the answers; the mean stays within 0..1."""
        rewards = [name for name in self._metrics if name.startswith("reward")]
        if not rewards:
            return
        hit = self._hit(ends, SCORED) + offset
        np.add.at(self._sums["scored"], hit, 1.0)
        mean = self.traffic.reward + self.traffic.reward_sd * self.traffic.reward_change * candidate
        for name in rewards:
            np.add.at(self._sums[name], hit, np.clip(self._rng.normal(mean, self.traffic.reward_sd, hit.size), 0, 1))

    def pairs(self, count: int) -> Floats:
        """Differences of rewards of answers to the same prompts, correlated ½."""
        mean = self.traffic.reward_sd * self.traffic.reward_change
        return np.clip(self._rng.normal(mean, self.traffic.reward_sd, count), -1, 1)

    def units(self) -> tuple[int, int]:
        """Units seen in this step: the candidate's and stable's."""
        seen = self._sums["answers"] > 0
        candidate = int(np.count_nonzero(seen[: self.candidates]))
        return candidate, int(np.count_nonzero(seen)) - candidate

    def sums(self) -> dict[str, tuple[ArmSums, ArmSums]]:
        """Per metric the sums of the candidate's arm and of stable's, over this step."""
        cut = self.candidates
        return {name: (self._arm(name, slice(0, cut)), self._arm(name, slice(cut, None))) for name in self._metrics}

    def _arm(self, name: str, units: slice) -> ArmSums:
        d = self._sums[_counted_by(name)][units]
        if name == "satisfaction":
            m = d - self._sums["thumbs_down"][units]
        elif name in self._seen or name.startswith("reward"):
            m = self._sums[name][units]
        else:  # a number per answer on which the versions do not differ
            m = d + _NO_EFFECT * np.sqrt(d) * np.random.default_rng(d.size).standard_normal(d.size)
        n = int(np.count_nonzero(d))
        # not `m @ m`: BLAS would start threads for it, which costs more than it saves
        return ArmSums(n, *(float(x.sum()) for x in (m, m * m, d, d * d, m * d)))


def _counted_by(name: str) -> str:
    if name in ("satisfaction", "thumbs_down"):
        return "feedback"
    return "scored" if name.startswith("reward") else "answers"
