from __future__ import annotations

from gateway.engines.tries import FIRST, MOST, Tries

A, B = "r@00000000000a", "r@00000000000b"


def test_waits_double_up_to_a_limit():
    tries = Tries()
    for count in range(1, 100):
        assert tries.failed(A, 100.0) == count
        wait = min(MOST, FIRST * 2 ** (count - 1))
        assert A in tries.waiting(100.0 + wait - 0.01) and A not in tries.waiting(100.0 + wait)


def test_success_hurry_and_disinterest():
    tries = Tries()
    tries.failed(A, 0.0)
    tries.failed(B, 0.0)
    tries.hurry(A)
    assert tries.waiting(0.0) == {B} and tries.failures == {A: 1, B: 1}
    tries.succeeded(A)
    tries.retain({A})
    assert tries.failures == {} and tries.waiting(0.0) == frozenset()
