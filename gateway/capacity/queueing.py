"""Waiting for a place in an engine's batch: M/G/k, with the batch's places as servers. Pure; times in seconds.

Requests come at random (Poisson), k at most run at once, the others wait in order of arrival: what vLLM does with
`--max-num-seqs` k. Erlang (1917) gives the exact answer for exponential service times; for others, Lee and Longton's
approximation scales the mean wait by (1 + c²)/2, c being the service time's coefficient of variation (Lee and Longton
1959, "Queueing processes associated with airline passenger check-in"; it is Pollaczek and Khinchine's formula for
k = 1). The wait of those who wait is taken for exponential (Whitt 1993, "Approximations for the GI/G/m queue").
tests/gateway/capacity/test_queueing.py compares it with simulations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wait:
    """How long requests wait for a place. `probability`: of having to wait at all; `mean`: over all requests."""

    probability: float
    mean: float

    def quantile(self, share: float) -> float:
        """The time within which `share` of all requests have a place."""
        late = 1.0 - share
        if self.probability <= late:
            return 0.0
        return math.inf if math.isinf(self.mean) else self.mean / self.probability * math.log(self.probability / late)


def erlang_c(servers: int, load: float) -> float:
    """The probability of waiting in M/M/k; `load`: arrival rate times mean service time. 1 at and above saturation."""
    if load >= servers:
        return 1.0
    blocking = 1.0  # Erlang B, by its recursion over the number of servers: no factorials
    for number in range(1, servers + 1):
        blocking = load * blocking / (number + load * blocking)
    used = load / servers
    return blocking / (1.0 - used * (1.0 - blocking))


def wait(rate: float, service: float, variation: float, servers: int) -> Wait:
    """M/G/k. `rate` in arrivals a second, `service` the mean, `variation` the coefficient of variation (not squared).

    At and above saturation everybody waits without end.
    """
    load = rate * service
    probability = erlang_c(servers, load)
    if load >= servers:
        return Wait(1.0, math.inf)
    return Wait(probability, probability * service / (servers - load) * (1.0 + variation**2) / 2.0)
