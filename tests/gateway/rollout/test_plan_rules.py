"""Plans that contradict themselves: weights, the holdout, and how a weight is divided among candidates."""

from __future__ import annotations

import pytest

from adapters.errors import ConfigError
from gateway.rollout.plan import MOST_CANDIDATES
from gateway.rollout.plan_rules import problems_of
from tests.support.traffic import quick_plan


def step(weight: str) -> dict:
    return {"weight": weight, "advance": "evidence"}


@pytest.mark.parametrize(
    ("weight", "holdout", "words"),
    [
        ("90%", "10%", "weight 90% and the holdout 10% leave nobody on stable: together they must be below 100%"),
        ("66.7%", "33.3%", "leave nobody on stable"),
        ("99.99999%", "0%", "leave nobody on stable"),
        ("90%", "11%", "are more than 100%"),
        ("100%", "0%", "100% leaves nothing to compare with"),
    ],
)
def test_somebody_has_to_be_left_on_stable(weight, holdout, words):
    with pytest.raises(ConfigError, match=words):
        quick_plan(step=[step(weight)], holdout=holdout)


@pytest.mark.parametrize(("weight", "holdout"), [("89.99%", "10%"), ("99%", "0%"), ("1%", "98%")])
def test_a_little_is_enough(weight, holdout):
    assert problems_of(quick_plan(step=[step(weight)], holdout=holdout)) == []


def test_how_a_weight_is_divided():
    assert quick_plan().parts(1) == (1.0,) and quick_plan().parts(4) == (0.25,) * 4
    assert quick_plan(split=[2, 1, 1]).parts(3) == (0.5, 0.25, 0.25)
    with pytest.raises(ConfigError, match="splits the weight among 3 candidates, not 1"):
        quick_plan(split=[2, 1, 1]).parts(1)
    with pytest.raises(ConfigError, match=f"name at most {MOST_CANDIDATES}"):
        quick_plan().parts(MOST_CANDIDATES + 1)
    for wrong in ([1, 0], [1, -1], [1, float("inf")]):
        with pytest.raises(ConfigError, match="each part must lie between"):
            quick_plan(split=wrong)
