"""The indicators that need no PromQL: each name and its parameters become queries over the metrics of conventions.py.

What counts as an event, and as a bad one, is told to operators in docs/slo.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from adapters.errors import ConfigError
from monitors import conventions as c
from monitors.conventions import ArmName, Metric, Outcome
from monitors.labels import ScreeningStage, Verdict
from monitors.promql import check_piece, quoted
from monitors.slo import SHORTEST, WINDOW, Events, Indicator, Ratio, Slices


class Sli(StrEnum):
    """The names that `[[slo]].sli` knows."""

    AVAILABILITY = "availability"
    TIME_TO_FIRST_TOKEN = "time_to_first_token"  # noqa: S105 - a name of an indicator, not a secret
    LATENCY = "latency"
    TIME_PER_OUTPUT_TOKEN = "time_per_output_token"  # noqa: S105 - likewise a name of an indicator
    REWARD = "reward"
    SATISFACTION = "satisfaction"
    UNSAFE_RATE = "unsafe_rate"
    OVER_REFUSAL = "over_refusal"
    DIVERGENCE = "divergence"
    CUSTOM = "custom"


class Source(StrEnum):
    """What a divergence is read from."""

    ALIGNMENT_TAX = "alignment_tax"    # calibrated: what the reward promises minus what users say
    SCORES = "scores"                  # the two histograms: share of good rewards minus share of satisfied users


# Arms whose answers no user of the route sees: evidence, operators' own requests, units put there by hand.
_NOT_USERS = "|".join((ArmName.SHADOW, ArmName.TESTER, ArmName.PINNED))
_CANDIDATE = "|".join((ArmName.CANDIDATE, ArmName.TREATMENT))
_ANSWERED = "|".join((Outcome.OK, Outcome.TRUNCATED, Outcome.BLOCKED))
_ONE_SUM = re.compile(r"sum\(rate\([^()]*\)\)")     # leaves no labels; sum(…) by (…) would
_FAILED = "|".join((Outcome.ERROR, Outcome.TRUNCATED))


@dataclass(frozen=True, slots=True)
class Scope:
    """Which part of the traffic: a route ("": all), all its users or only the candidate's, an endpoint, a grader."""

    route: str = ""
    candidate: bool = False
    endpoint: str = ""
    grader: str = ""

    def rate(self, metric: Metric, suffix: str = "", **matchers: str) -> str:
        """sum(rate(…)) of a counter, or of a histogram's `suffix`. Raises ConfigError: the metric lacks a label.

        A candidate's are those of versions that are candidates now: what the one before it did is not held against it.
        """
        total = f"sum(rate({metric.full_name}{suffix}{{{self.selector(metric, **matchers)}}}[{WINDOW}]))"
        if not self.candidate:
            return total
        asked = f"{c.REQUESTS.full_name}{{{Scope(self.route, candidate=True).selector(c.REQUESTS)}}}"
        now = f"sum by (route, version) (rate({asked}[{SHORTEST}])) > 0"
        return f"sum({_by_version(total)} and on (route, version) ({now}))"

    def selector(self, metric: Metric, **matchers: str) -> str:
        """Matchers as text; values of `matchers` bring their operator. Raises ConfigError."""
        wanted = {"endpoint": self.endpoint, "grader": self.grader, "arm": "x" if self.candidate else ""}
        lacking = [name for name, value in wanted.items() if value and name not in metric.labels]
        if lacking:
            raise ConfigError(f"{metric.full_name} has no label {lacking[0]}: leave {lacking[0]} out")
        found = {"route": f"={quoted(self.route)}" if self.route else '!=""'}
        if "arm" in metric.labels:
            found["arm"] = f'=~"{_CANDIDATE}"' if self.candidate else f'!~"{_NOT_USERS}"'
        for name in ("endpoint", "grader"):
            if wanted[name]:
                found[name] = f"={quoted(wanted[name])}"
        return ",".join(name + value for name, value in (found | matchers).items())


def indicator(
    sli: Sli, scope: Scope, threshold: float | None = None, source: Source = Source.ALIGNMENT_TAX
) -> Indicator:
    """Queries for an indicator. `threshold`: seconds, a score, or points of satisfaction. Raises ConfigError."""
    if sli is Sli.DIVERGENCE:
        return _by_scores(scope, threshold) if source is Source.SCORES else _by_tax(scope, threshold)
    if sli in _PLAIN:
        if threshold is not None:
            raise ConfigError(f"sli {sli} takes no threshold")
        return _PLAIN[sli](scope)
    if sli in _SLOWER:
        metric = _SLOWER[sli]
        if threshold is None:
            raise ConfigError(f"sli {sli} needs threshold = seconds: one of {_bounds(metric)}")
        return _slower(metric, scope, threshold)
    if sli in _LOW:
        return _low(_LOW[sli], scope, 0.5 if threshold is None else threshold)
    raise ConfigError(f"sli {sli} is written as PromQL: give total, and good or bad")


def custom(total: str, *, good: str = "", bad: str = "") -> Events:
    """Queries of events per second over [{{.window}}], of which `total` and one other are given. Raises ConfigError."""
    if not total or bool(good) == bool(bad):
        raise ConfigError("a custom SLO needs total, and either good or bad")
    for query in filter(None, (total, good, bad)):
        check_piece(query)
        if WINDOW not in query:
            raise ConfigError(f"the query {query!r} has no {WINDOW}: write rate(…[{WINDOW}])")
    if bad:
        return Events(_or_none(_summed(bad)), _summed(total))
    return Events(f"clamp_min({_summed(total)} - ({_or_none(_summed(good))}), 0)", _summed(total))


def _availability(scope: Scope) -> Events:
    """What the client did wrong (4xx) or gave up is no event: else bad requests could hide an outage. A refusal by
    screening is an answer, unless it was refused because there was no verdict (5xx)."""
    owed = {"code": '!~"4.."'}
    failed = _or_none(scope.rate(c.REQUESTS, outcome=f'=~"{_FAILED}"', **owed))
    unjudged = _or_none(scope.rate(c.REQUESTS, outcome=f'="{Outcome.BLOCKED}"', code='=~"5.."'))
    return Events(f"({failed}) + ({unjudged})", scope.rate(c.REQUESTS, outcome=f'!="{Outcome.CANCELLED}"', **owed))


def _unsafe(scope: Scope) -> Events:
    """Answers, not prompts, of versions that users are served with: the counter has no arm, and shadow answers are in
    it. What could not be judged is no event: safe is only what was called safe."""

    def rate(verdict: str) -> str:
        judged = scope.rate(c.SCREENING, stage=f'="{ScreeningStage.RESPONSE}"', verdict=verdict)
        return f"sum({_by_version(judged)} and on (route, version) ({_served(scope)} > 0))"

    return Events(_or_none(rate(f'="{Verdict.UNSAFE}"')), rate(f'!="{Verdict.UNAVAILABLE}"'))


def _over_refusal(scope: Scope) -> Events:
    """Requests that screening refused, of those that got an answer: an upper bound, for some were rightly refused."""
    judged = {"code": '!~"5.."'}
    return Events(
        _or_none(scope.rate(c.REQUESTS, outcome=f'="{Outcome.BLOCKED}"', **judged)),
        scope.rate(c.REQUESTS, outcome=f'=~"{_ANSWERED}"', **judged),
    )


def _slower(metric: Metric, scope: Scope, threshold: float) -> Events:
    """Observations above a bucket's bound."""
    count = scope.rate(metric, "_count")
    within = scope.rate(metric, "_bucket", le=_bound(metric, threshold))
    return Events(f"clamp_min({count} - {within}, 0)", count)


def _low(metric: Metric, scope: Scope, threshold: float) -> Events:
    """Scores of `threshold` or less."""
    return Events(scope.rate(metric, "_bucket", le=_bound(metric, threshold)), scope.rate(metric, "_count"))


def _by_scores(scope: Scope, threshold: float | None) -> Ratio:
    """Share of good rewards minus share of satisfied users: no pairs are needed, for it is at most the share of
    answers with a good reward and an unhappy user (Fréchet's bound, P(A ∧ B) ≥ P(A) − P(not B))."""
    level = 0.5 if threshold is None else threshold
    rated = _low(c.SATISFACTION, replace(scope, grader=""), level)
    graded = _low(c.REWARD_SCORE, scope, level)
    return Ratio(f"clamp_min(({rated.error(WINDOW)})\n-\n({graded.error(WINDOW)}), 0)", rated.bad)


def _by_tax(scope: Scope, threshold: float | None) -> Slices:
    """The alignment tax of any version that users are served with is above `threshold`, in points of satisfaction."""
    if scope.candidate or scope.endpoint or scope.grader:
        raise ConfigError(f"{c.ALIGNMENT_TAX.full_name} is per version: leave arm, endpoint and grader out")
    taxes = f"{c.ALIGNMENT_TAX.full_name}{{{scope.selector(c.ALIGNMENT_TAX)}}}"
    most = 0.05 if threshold is None else threshold
    return Slices(f"max(\n  {taxes}\n  and on (route, version)\n  ({_served(scope)} > 0)\n) > bool {most:g}")


def _served(scope: Scope) -> str:
    """Requests per second of users, by version."""
    return _by_version(Scope(scope.route).rate(c.REQUESTS))


def _by_version(total: str) -> str:
    return total.replace("sum(", "sum by (route, version) (", 1)


def _or_none(query: str) -> str:
    """0 while no event of its kind has made a series. Not for histograms, whose buckets are there from the start."""
    return f"{query} or vector(0)"


def _summed(query: str) -> str:
    """One number, whatever labels the query leaves."""
    return query if _ONE_SUM.fullmatch(query) else f"sum({query})"


def _bound(metric: Metric, threshold: float) -> str:
    """A matcher for the bucket that ends at `threshold`; Prometheus 3 writes 1.0 where older ones keep 1 or 1.0."""
    if threshold not in metric.buckets:
        raise ConfigError(f"threshold {threshold:g} is between two buckets of {metric.full_name}: {_bounds(metric)}")
    text = repr(float(threshold))
    return f'=~"{text.removesuffix(".0")}(\\\\.0)?"' if text.endswith(".0") else f'="{text}"'


def _bounds(metric: Metric) -> str:
    return ", ".join(f"{bound:g}" for bound in metric.buckets)


_PLAIN: dict[Sli, Callable[[Scope], Events]] = {
    Sli.AVAILABILITY: _availability, Sli.UNSAFE_RATE: _unsafe, Sli.OVER_REFUSAL: _over_refusal,
}  # fmt: skip
_SLOWER = {Sli.TIME_TO_FIRST_TOKEN: c.TTFT, Sli.LATENCY: c.DURATIONS, Sli.TIME_PER_OUTPUT_TOKEN: c.TPOT}
_LOW = {Sli.REWARD: c.REWARD_SCORE, Sli.SATISFACTION: c.SATISFACTION}
