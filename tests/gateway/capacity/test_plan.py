"""From demand to engines, by hand and against a simulation of the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.errors import ConfigError
from gateway.capacity.plan import Demand, Limits, Versions, plan
from gateway.capacity.shapes import Shape
from gateway.capacity.speed import Point, speed_of

# One engine: 20 ms a token however full it is (up to 50 places), 100 ms to the first token.
FLAT = speed_of([Point(1, 50, 0.1), Point(50, 2500, 0.1)])
DEMAND = Demand(rps=100.0, input_tokens=300, output_tokens=100, ttft=60.0, tpot=0.02)
NO_SPARE = Limits(spare=0)
GIB = 2**30


def test_by_hand():
    """100 a second, each 2 s in its place: 200 places. 50 on an engine, 80 % of them in use: 5 engines."""
    found = plan(DEMAND, FLAT, Versions(), Limits())
    assert (found.replicas, found.needed, found.concurrency) == (6, 5, 50)
    assert found.rate == 20.0 and found.saturated == 25.0
    assert found.utilisation == pytest.approx(0.8)
    assert found.per_token == pytest.approx(0.02)
    assert plan(DEMAND, FLAT, Versions(), replace(NO_SPARE, utilisation=0.99)).replicas == 5  # 4 would be full: 1.0
    assert plan(replace(DEMAND, rps=79.0), FLAT, Versions(), replace(NO_SPARE, utilisation=0.99)).replicas == 4


def test_the_first_token_decides_where_that_is_harder():
    loose, tight = (plan(replace(DEMAND, rps=9.9, ttft=ttft), speed_of([Point(1, 50, 0.1)]), Versions(), NO_SPARE)
                    for ttft in (60.0, 0.15))  # fmt: skip
    assert tight.needed > loose.needed
    assert tight.first_token <= 0.15 and loose.first_token <= 60.0


def test_a_slower_batch_is_made_smaller():
    speed = speed_of([Point(1, 50, 0.1), Point(100, 2000, 0.1)])  # 20 ms a token alone, 50 ms for a hundred
    found = plan(replace(DEMAND, tpot=0.035), speed, Versions(), Limits())
    assert found.per_token <= 0.035 < speed.at(found.concurrency + 1).per_token
    assert found.concurrency == 50  # half way between 1 and 100: 0.02 + 0.03 · 49.5/99 at 50.5


def test_memory_makes_the_batch_smaller_and_says_so():
    shape = Shape(weights=10 * GIB, kv_per_token=GIB // 1024, lora_width=GIB // 128)
    limits = Limits(max_loras=2, max_cpu_loras=4, max_lora_rank=16, memory=20 * GIB, memory_share=0.9)
    found = plan(DEMAND, FLAT, Versions(2, 3, 16), limits, shape)
    assert found.memory is not None
    slots = 2 * 16 * 2 * GIB // 128  # slots, rank, bytes
    assert (found.memory.adapters, found.memory.host_adapters) == (slots, 2 * slots)
    assert found.memory.cache == pytest.approx(18 * GIB - 10 * GIB - slots)
    assert found.memory.per_sequence == 400 * GIB // 1024
    assert found.concurrency == found.memory.sequences == 19
    assert any("fp8" in warning for warning in found.warnings)
    with pytest.raises(ConfigError, match="one sequence does not fit"):
        plan(DEMAND, FLAT, Versions(), replace(limits, memory=11 * GIB), shape)


def test_versions_that_no_engine_can_hold_all():
    found = plan(replace(DEMAND, rps=1.0), FLAT, Versions(served=10, loaded=17, rank=8), Limits())
    assert (found.needed, found.for_versions, found.replicas) == (1, 3, 4)  # ⌈10/4⌉ = 3, ⌈17/8⌉ = 3
    assert any("more than its equal share" in warning for warning in found.warnings)
    fits = plan(replace(DEMAND, rps=1.0), FLAT, Versions(served=3, loaded=5, rank=8), Limits())
    assert (fits.for_versions, fits.max_loras, fits.max_cpu_loras, fits.max_lora_rank) == (1, 3, 5, 8)


def test_what_is_doubtful_is_said():
    def said(versions=None, limits=None, tpot=0.02):
        versions, limits = versions or Versions(), limits or Limits()
        return " | ".join(plan(replace(DEMAND, tpot=tpot), FLAT, versions, limits).warnings)

    assert said() == ""
    assert "refuses rank 20: set 32" in said(Versions(1, 2, 20))
    assert "a rollout needs one more" in said(Versions(4, 5, 8))
    assert "leaves 4 for the whole load" in said(limits=NO_SPARE)
    assert "nothing was measured beyond 50" in said(tpot=0.5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rps": 0}, "--rps"), ({"rps": float("nan")}, "--rps"), ({"output_tokens": -1}, "--output-tokens"),
        ({"share": 1.0}, "--share"), ({"variation": -1.0}, "--variation"), ({"tpot": 0.01}, "no number of engines"), ({"ttft": 0.1}, "no number of engines"),
        ({"ttft": 0.1000001, "rps": 1e9}, "more than 100000 engines"),
    ],
    ids=["none", "nan", "negative", "all", "variation", "tpot", "ttft", "absurd"],
)  # fmt: skip
def test_what_cannot_be_is_one_line(change, says):
    with pytest.raises(ConfigError, match=says):
        plan(replace(DEMAND, **change), FLAT, Versions(), Limits())


def test_more_loaded_than_served_and_a_free_place():
    with pytest.raises(ConfigError, match="--loaded 1 is less"):
        plan(DEMAND, FLAT, Versions(served=2, loaded=1), Limits())
    with pytest.raises(ConfigError, match="--utilisation"):
        plan(DEMAND, FLAT, Versions(), Limits(utilisation=1.0))
