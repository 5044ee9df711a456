"""Which answers are looked at: a share of all; in a rollout as many as may be stored, of each arm alike."""

from __future__ import annotations

from collections import Counter

import pytest

from adapters.snapshot import Arm, RouteState, Shadow
from gateway.data_plane.mirror import Mirror
from gateway.data_plane.sampling import Allowance
from gateway.data_plane.watch import MEASURE, MIRROR, STORE, STORED_PER_SECOND, Watch, watch_arms


def test_no_more_than_so_many_a_second() -> None:
    allowance = Allowance(10.0)
    assert [allowance.take(100.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert not allowance.take(100.05)
    assert allowance.take(100.11) and not allowance.take(100.12)
    taken = sum(allowance.take(200.0 + k / 1000) for k in range(10_000))
    assert 10 + 98 <= taken <= 10 + 100  # one second's worth at once, then ten a second


def arms(share: float) -> RouteState:
    candidate = Arm(2, "candidate", "c", "c", 0.0, share, ())
    stable, holdout = Arm(1, "stable", "s", "s", share, 0.9, ()), Arm(3, "holdout", "s", "s", 0.9, 1.0, ())
    return RouteState("support", "salt", (candidate, stable, holdout), rollout=7)


def mirror(sample: float) -> Mirror:
    return Mirror(7, None, Shadow(9, "c", "c", (), sample, 1, 10))  # type: ignore[arg-type]  # no target is needed here


def test_a_small_arm_is_not_starved_by_a_large_one() -> None:
    watch = watch_arms(arms(0.01), 0.1, 1, None, None)
    large, small = watch(arms(0.01).arms[1]), watch(arms(0.01).arms[0])
    now, taken = 50.0, Counter[str]()
    for k in range(10_000):  # 1000 a second, 1 % of them the candidate's
        now += 0.001
        taken["large"] += bool(large.select(now) & STORE)
        if k % 100 == 0:
            taken["small"] += bool(small.select(now) & STORE)
    assert taken["small"] == 100
    assert taken["large"] == pytest.approx(STORED_PER_SECOND / 3 * 11, abs=3)


def test_workers_share_the_allowance() -> None:
    def stored(workers: int) -> int:
        watch = watch_arms(arms(0.5), 0.1, workers, None, None)(arms(0.5).arms[0])
        return sum(bool(watch.select(60.0 + k / 1000) & STORE) for k in range(20_000))

    assert stored(4) == pytest.approx(stored(1) / 4, abs=2)


def test_outside_rollouts_a_share_is_measured_and_a_part_of_it_stored() -> None:
    watch = Watch(0.2, Allowance(50.0), 0, None, None)
    chosen = Counter(watch.select(10.0 + k / 10_000) for k in range(20_000))  # two seconds
    assert set(chosen) == {0, MEASURE, MEASURE | STORE}
    assert 3600 < chosen[MEASURE] + chosen[MEASURE | STORE] < 4400  # ±7 standard deviations
    assert 100 <= chosen[MEASURE | STORE] <= 151
    assert set(Counter(Watch(0.0, Allowance(50.0), 0, None, None).select(k) for k in range(999))) == {0}


def test_only_stable_is_mirrored() -> None:
    watch = watch_arms(arms(0.2), 0.0, 1, None, mirror(0.5))
    candidate, stable, holdout = map(watch, arms(0.2).arms)
    assert candidate.mirror is None and holdout.mirror is None and stable.mirror is not None
    chosen = [stable.select(float(k)) & MIRROR for k in range(4000)]
    assert 1700 < sum(map(bool, chosen)) < 2300
