"""What the documented examples of two Kubernetes rollout controllers would do with the same traffic, for comparison.

Flagger, docs/gitbook/usage/how-it-works.md: every minute a check of the last minute; the success rate must be at least
99 %; 10 failed checks (also those without data) roll back, a passed one adds 5 % of weight, and after 50 % it promotes.
Argo Rollouts, docs/features/analysis.md, background analysis: every 5 minutes the success rate must be at least 95 %;
three such failures abort; weights 20, 40, 60, 80 %, 10 minutes each. (Its example starts the analysis at the second
weight; here it runs from the beginning, which is to its advantage.) Both look at failed requests only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gateway.rollout.simulate import Outcome
from gateway.rollout.simulated_traffic import Traffic

Rules = Callable[[Traffic, np.random.Generator], Outcome]


def flagger(traffic: Traffic, rng: np.random.Generator) -> Outcome:
    """interval 1m, threshold 10, stepWeight 5, maxWeight 50, request-success-rate min 99."""
    percent, failed, polls = 5, 0, _Polls(traffic, rng, 60.0)
    while True:
        success = polls.look(percent / 100)
        if success is None or success < 0.99:
            failed += 1
            if failed >= 10:
                return polls.end("rollback")
        elif percent >= 50:
            return polls.end("promote")
        else:
            percent += 5


def argo(traffic: Traffic, rng: np.random.Generator) -> Outcome:
    """interval 5m, failureLimit 3, successCondition result >= 0.95; setWeight 20, 40, 60, 80 with pauses of 10m."""
    failed, polls = 0, _Polls(traffic, rng, 300.0)
    for weight in (0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.8, 0.8):
        success = polls.look(weight)
        failed += success is not None and success < 0.95
        if failed >= 3:
            return polls.end("rollback")
    return polls.end("promote")


class _Polls:
    """The success rate of the candidate's requests, window after window."""

    def __init__(self, traffic: Traffic, rng: np.random.Generator, interval: float) -> None:
        self._traffic, self._rng, self._interval = traffic, rng, interval
        self._clock = self._requests = 0.0

    def look(self, weight: float) -> float | None:
        """After one more window at this weight; None when nobody asked."""
        requests = int(self._rng.poisson(self._traffic.rps * self._interval * weight))
        failures = int(self._rng.binomial(requests, self._traffic.rate("error", candidate=True)))
        self._clock += self._interval
        self._requests += requests
        return 1 - failures / requests if requests else None

    def end(self, decision: str) -> Outcome:
        """What it came to."""
        bad = self._requests * self._traffic.rate(self._traffic.metric, candidate=True)
        return Outcome(decision, self._clock, self._requests, bad, "error" if decision == "rollback" else "", 1)
