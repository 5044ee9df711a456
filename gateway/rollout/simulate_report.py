"""Many simulated rollouts as a few numbers: how often, after how long, how many requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gateway.rollout.plan import Plan
from gateway.rollout.polling_rules import Rules, argo, flagger
from gateway.rollout.simulate import Outcome, duration_of, reachable, simulate
from gateway.rollout.simulated_traffic import Traffic

PLAN = "this plan"
POLLING: tuple[tuple[str, Rules], ...] = (("Flagger's example", flagger), ("Argo's example", argo))
HARMFUL, EQUAL = "the stated candidate", "a candidate equal to stable"


@dataclass(frozen=True, slots=True)
class Middle:
    """Median and 95th percentile; None without a case."""

    median: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One set of rules on one kind of candidate."""

    rules: str
    candidate: str
    runs: int
    rolled_back: float                 # shares of the runs
    promoted: float
    held: float
    rollback_seconds: Middle           # over the runs that rolled back
    rollback_requests: Middle          # served by the candidate until then
    rollback_bad_requests: Middle
    promote_seconds: Middle            # over the runs that promoted
    causes: dict[str, int]             # of rollbacks and holds: metric → runs


def summarise(rules: str, candidate: str, outcomes: Sequence[Outcome]) -> Summary:
    """The outcomes of one set of rules."""
    caught = [outcome for outcome in outcomes if outcome.decision == "rollback"]
    promoted = [outcome for outcome in outcomes if outcome.decision == "promote"]
    runs, causes = len(outcomes), Counter(o.cause for o in outcomes if o.decision != "promote")
    return Summary(
        rules, candidate, runs, len(caught) / runs, len(promoted) / runs, (runs - len(caught) - len(promoted)) / runs,
        _middle([o.seconds for o in caught]), _middle([o.candidate_requests for o in caught]),
        _middle([o.bad_requests for o in caught]), _middle([o.seconds for o in promoted]), dict(causes.most_common()),
    )  # fmt: skip


def _middle(values: Sequence[float]) -> Middle:
    if not values:
        return Middle(None, None)
    return Middle(float(np.median(values)), float(np.quantile(values, 0.95)))


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a simulation found."""

    plan: str
    traffic: Traffic
    seed: int
    least_seconds: float               # that the plan takes in any case
    warnings: tuple[str, ...]
    summaries: tuple[Summary, ...]
    outcomes: dict[tuple[str, str], tuple[Outcome, ...]]  # (rules, candidate) → runs

    def to_json(self) -> dict[str, Any]:
        """Without the single runs."""
        body = {name: getattr(self, name) for name in ("plan", "seed", "least_seconds", "warnings")}
        return {**body, "traffic": asdict(self.traffic), "summaries": [asdict(s) for s in self.summaries]}


def report(
    plan: Plan, traffic: Traffic, runs: int, seed: int, progress: Callable[[], None] | None = None
) -> Report:
    """The plan, and the polling rules, on the stated candidate (when it differs) and on one that equals stable.

    `progress` is called after each of the plan's runs, kinds(traffic) · runs times in all.
    """
    outcomes: dict[tuple[str, str], tuple[Outcome, ...]] = {}
    for kind, stated in kinds(traffic.check()):
        outcomes[PLAN, kind] = tuple(simulate(plan, stated, runs, seed, progress))
        for name, rules in POLLING:
            streams = np.random.SeedSequence(seed).spawn(runs)
            outcomes[name, kind] = tuple(rules(stated, np.random.default_rng(stream)) for stream in streams)
    summaries = tuple(summarise(*names, found) for names, found in outcomes.items())
    warnings = tuple(reachable(plan, traffic))
    return Report(plan.name, traffic, seed, duration_of(plan), warnings, summaries, outcomes)


def kinds(traffic: Traffic) -> list[tuple[str, Traffic]]:
    """Which candidates are simulated."""
    equal = (EQUAL, traffic.harmless)
    return [equal] if traffic == traffic.harmless else [(HARMFUL, traffic), equal]


def in_words(seconds: float | None) -> str:
    """95.2 → '95 s', 5400 → '1.5 h'; '-' for none."""
    if seconds is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
