"""The formulas of waiting: exact values by hand, and simulations of what they approximate."""

from __future__ import annotations

import heapq
import math

import numpy
import pytest

from gateway.capacity.queueing import Wait, erlang_c, wait


@pytest.mark.parametrize(
    ("servers", "load", "probability"),
    [
        (1, 0.5, 0.5),  # M/M/1: the load itself
        (2, 1.0, 1 / 3),  # 2ρ²/(1+ρ) with ρ = 1/2
        (3, 2.0, 4 / 9),  # (8/6 · 3) / (1 + 2 + 2 + 8/6 · 3)
        (5, 5.0, 1.0),
        (5, 7.0, 1.0),
    ],
)
def test_erlang_c_by_hand(servers, load, probability):
    assert erlang_c(servers, load) == pytest.approx(probability)


def test_erlang_c_of_many_servers_does_not_overflow():
    """Erlang's formula as a sum of terms that are each relative to the last one."""
    servers, load = 2000, 1900.0
    term, total = 1.0, 0.0
    for number in range(servers, 0, -1):
        term *= number / load
        total += term
    last = servers / (servers - load)
    assert erlang_c(servers, load) == pytest.approx(last / (last + total), rel=1e-9)


def test_one_server_is_pollaczek_and_khinchine():
    rate, service, variation = 0.8, 1.0, 0.5
    found = wait(rate, service, variation, 1)
    assert found.mean == pytest.approx(rate * service**2 * (1 + variation**2) / (2 * (1 - rate * service)))
    assert wait(rate, service, 0.0, 1).mean == pytest.approx(wait(rate, service, 1.0, 1).mean / 2)


def test_quantiles_of_an_exponential_wait():
    found = Wait(probability=0.5, mean=1.0)  # those who wait: 2 s on average
    assert found.quantile(0.5) == 0.0 and found.quantile(0.4) == 0.0
    assert found.quantile(0.75) == pytest.approx(2 * math.log(2))
    assert found.quantile(0.99) == pytest.approx(2 * math.log(50))


def test_a_full_engine_never_catches_up():
    found = wait(10.0, 1.0, 1.0, 10)
    assert found == Wait(1.0, math.inf) and found.quantile(0.5) == math.inf


def waits(rate, service, servers, count, seed):
    """First come, first served: each takes the server that is free first. `service(random, count)` gives times."""
    random = numpy.random.default_rng(seed)
    arrivals = numpy.cumsum(random.exponential(1 / rate, count))
    times, free, found = service(random, count), [0.0] * servers, numpy.empty(count)
    for number, (arrival, time) in enumerate(zip(arrivals, times, strict=True)):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + time)
        found[number] = start - arrival
    return found[count // 10 :]


def lognormal(variation):
    sigma2 = math.log(1 + variation**2)
    return lambda random, count: random.lognormal(-sigma2 / 2, math.sqrt(sigma2), count)


@pytest.mark.parametrize(
    ("servers", "used", "variation", "mean_within", "quantile_within"),
    [(8, 0.8, 1.0, 0.12, 0.15), (8, 0.9, 0.5, 0.12, 0.15), (32, 0.9, 1.0, 0.15, 0.2), (4, 0.7, 1.5, 0.2, 0.25)],
)
def test_the_approximation_is_near_what_happens(servers, used, variation, mean_within, quantile_within):
    """Lognormal service times of mean 1, 200,000 requests. Of very uneven ones it says too much: the safe side."""
    rate = used * servers
    seen = waits(rate, lognormal(variation), servers, 200_000, seed=servers)
    found = wait(rate, 1.0, variation, servers)
    assert found.probability == pytest.approx((seen > 0).mean(), rel=0.12)
    assert found.mean == pytest.approx(seen.mean(), rel=mean_within)
    assert found.quantile(0.99) == pytest.approx(numpy.quantile(seen, 0.99), rel=quantile_within)


def test_exponential_service_times_are_exact():
    seen = waits(6.4, lambda random, count: random.exponential(1.0, count), 8, 200_000, seed=1)
    found = wait(6.4, 1.0, 1.0, 8)
    assert found.mean == pytest.approx(seen.mean(), rel=0.1)
    assert found.quantile(0.99) == pytest.approx(numpy.quantile(seen, 0.99), rel=0.1)
