from __future__ import annotations

from gateway.engines.backoff import Backoff


def test_it_doubles_up_to_a_limit_and_starts_over():
    backoff = Backoff(1.0, 10.0, 60.0, uniform=lambda low, high: 1.0)
    assert [backoff.after(0.1) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.after(60.0) == 1.0
    assert backoff.after(0.0) == 2.0
    for _ in range(2000):
        assert backoff.after(0.0) <= 10.0


def test_many_do_not_return_at_once():
    delays = {Backoff().after(0.0) for _ in range(50)}
    assert len(delays) == 50 and all(0.75 <= delay <= 1.25 for delay in delays)
